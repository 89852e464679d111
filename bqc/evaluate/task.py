"""What a task is: where its rows lie, what its labels are called, how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Column", "Examples", "HubSource", "LocalSource", "Task"]

Column = int | str
"""A column by position (negative: from the end) or by its name in the header."""


@dataclass(frozen=True)
class Examples:
    """Rows of a task.

    Attributes:
        texts: one tuple a row: a sentence, or a pair.
        labels: int64 ``[rows]`` class indices, or float32 ``[rows]`` scores.
    """

    texts: list[tuple[str, ...]]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.texts)

    def head(self, limit: int | None) -> Examples:
        """The first ``limit`` rows; all, if None."""
        return Examples(self.texts[:limit], self.labels[:limit])


@dataclass(frozen=True)
class LocalSource:
    """Tab-separated files of the GLUE layout: ``<data>/glue/<folder>/<split>.tsv``, read without quoting.

    Attributes:
        folder: the task's folder.
        text: the columns of the sentence, or of both sentences.
        label: the column of the label: an index, a score, or one of the task's ``labels``.
        header: whether the first line names the columns.
        files: split -> file name, where it is not ``<split>.tsv``.
    """

    folder: str
    text: tuple[Column, ...]
    label: Column
    header: bool = True
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HubSource:
    """The same rows on the Hugging Face hub, through ``datasets``.

    Attributes:
        dataset: repository.
        config: configuration in it.
        text: the columns of the sentence, or of both sentences.
        label: the column of the label.
        splits: our split -> theirs.
    """

    dataset: str
    config: str
    text: tuple[str, ...]
    label: str = "label"
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "dev": "validation"})


@dataclass(frozen=True)
class Task:
    """A task that scores one text or a pair of texts with a class or a number.

    Attributes:
        name: what the user types.
        title: what the literature calls it.
        labels: class names in index order; empty for a regression.
        synonyms: other names for the classes in use among published models, name -> name in ``labels``.
        metrics: names in ``bqc.evaluate.metrics``; the first is the one to quote.
        local: rows in a folder.
        hub: rows on the hub.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    local: LocalSource
    hub: HubSource
    synonyms: dict[str, str] = field(default_factory=dict)

    @property
    def regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return not self.labels

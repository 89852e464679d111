"""What a task is: where its examples lie, how they become tokens and targets, and how outputs are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.tokens import Encoding, Padder, TextEncoder
from bqc.runtime.inputs import Batch

__all__ = [
    "IGNORED",
    "Examples",
    "Features",
    "Floats",
    "HubSource",
    "Items",
    "LocalSource",
    "MetricFunction",
    "Task",
]

IGNORED = -100
"""The target of a token that has none, as ``torch.nn.CrossEntropyLoss`` ignores by default."""

Floats = npt.NDArray[np.float32]
Items = Sequence[Any] | npt.NDArray[Any]
"""Labels or predictions, one an example."""
MetricFunction = Callable[[Items, Items], "float | Mapping[str, float]"]
"""A user's metric: of (labels, predictions), one each an example, to a number or to named numbers."""


@dataclass(frozen=True)
class Examples:
    """Rows of a task.

    Attributes:
        texts: one tuple a row: a sentence, a pair, the words of a sentence, or a question and its context.
        labels: one a row: int64 class index or float32 score (an array); int64 ``[words]`` tag indices; or
            `Answers` (lists).
    """

    texts: list[tuple[str, ...]]
    labels: Items

    def __len__(self) -> int:
        return len(self.texts)

    def head(self, limit: int | None) -> Examples:
        """The first ``limit`` rows; all, if None."""
        return Examples(self.texts[:limit], self.labels[:limit])

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Examples:
        """The rows of these indices, in this order."""
        labels = self.labels
        taken = labels[rows] if isinstance(labels, np.ndarray) else [labels[row] for row in rows]
        return Examples([self.texts[row] for row in rows], taken)


@dataclass(frozen=True)
class Features:
    """Tokenised examples, unpadded: what a model is run on and trained on.

    An example has one feature; a long context of a `SpanTask` has one a window.

    Attributes:
        encodings: token ids and types of each.
        owners: int64 ``[features]``, the row of the example that each belongs to.
        targets: int64 ``[features]`` classes, float32 ``[features]`` scores, int64 ``[features, 2]`` first and
            last token of the answer, or one int64 ``[tokens]`` array of tags each, `IGNORED` where there is none.
        anchors: what leads from tokens back to the text: int64 ``[words]`` first token of each word (-1: cut
            off), or int64 ``[tokens, 2]`` characters of the context (-1 outside it); empty where nothing does.
    """

    encodings: list[Encoding]
    owners: npt.NDArray[np.int64]
    targets: npt.NDArray[np.generic] | list[npt.NDArray[np.int64]]
    anchors: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.encodings)

    def pad(
        self, rows: Sequence[int] | npt.NDArray[np.int64], padder: Padder, length: int | None = None
    ) -> tuple[Batch, npt.NDArray[np.generic]]:
        """Some features as one batch, padded on the right to ``length`` or to the longest, and its targets.

        Tags are padded with `IGNORED` to int64 ``[batch, sequence]``; other targets keep their shape.
        """
        batch = padder.pad([self.encodings[row] for row in rows], length)
        if isinstance(self.targets, np.ndarray):
            return batch, self.targets[rows]
        padded = np.full(batch.ids.shape, IGNORED, dtype=np.int64)
        for at, row in enumerate(rows):
            padded[at, : len(self.targets[row])] = self.targets[row]
        return batch, padded


class LocalSource(Protocol):
    """A task's examples in files."""

    def read(self, task: Task, data: Path, split: str) -> Examples:
        """The examples of a split from the folder (or file) ``data``.

        Raises:
            BqcError: the file is missing or is not the task's; the message names the file and the line.
        """


class HubSource(Protocol):
    """A task's examples on the Hugging Face hub, through ``datasets``.

    Attributes:
        dataset: repository.
        config: configuration in it; None is the only one.
        revision: branch or commit; None is the newest.
        splits: our split -> theirs.
    """

    @property
    def dataset(self) -> str: ...
    @property
    def config(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def splits(self) -> Mapping[str, str]: ...

    def examples(self, task: Task, rows: Any) -> Examples:
        """The examples in ``rows``, a ``datasets.Dataset``.

        Raises:
            BqcError: a column is missing.
        """


@dataclass(frozen=True)
class Task(ABC):
    """A task, known completely: `features` and `score` are all that evaluation and training need.

    Attributes:
        name: what the user types.
        title: what the literature calls it.
        metrics: names in ``bqc.evaluate.metrics``; the first is the one to quote.
        local: examples in files.
        hub: examples on the hub; None if they are only in files.
        labels: class or tag names in index order; empty where outputs are not classes.
        function: a metric of the user's, scored after ``metrics``.
    """

    kind: ClassVar[str]
    """``sentence``, ``tagging`` or ``span``: the shape of the model's head."""
    max_length: ClassVar[int] = 128
    """Tokens to keep of an example where the user does not say."""

    name: str
    title: str
    metrics: tuple[str, ...]
    local: LocalSource
    hub: HubSource | None = None
    labels: tuple[str, ...] = ()
    function: MetricFunction | None = None

    @property
    def loss(self) -> str:
        """``cross-entropy`` (of classes, of tags, of first and last token) or ``mse``: what training minimises."""
        return "cross-entropy"

    @abstractmethod
    def fit(self, config: Mapping[str, Any], width: int) -> tuple[Task, bool]:
        """The task as a model with ``width`` outputs and this ``config.json`` does it.

        Returns:
            the task, with the model's classes or order of tags where those are the model's to choose; and whether
            the names in ``config`` proved their order.

        Raises:
            BqcError: the head is another task's, or has the task's classes in another order.
        """

    @abstractmethod
    def features(self, examples: Examples, encoder: TextEncoder) -> Features:
        """Tokens and targets of the examples."""

    @abstractmethod
    def predictions(self, examples: Examples, features: Features, outputs: Sequence[Floats]) -> Items:
        """What a model says of each example, comparable with its label.

        Args:
            examples: the examples.
            features: theirs.
            outputs: one array a feature, without padding: ``[classes]``, ``[tokens, tags]``, or
                ``[tokens, 2]`` start and end scores.
        """

    @abstractmethod
    def measure(self, examples: Examples, predictions: Items) -> dict[str, float]:
        """The task's own metrics, as fractions."""

    def named(self, examples: Examples, predictions: Items) -> tuple[Items, Items]:
        """Labels and predictions as ``function`` receives them."""
        return examples.labels, predictions

    def score(self, examples: Examples, predictions: Items) -> dict[str, float]:
        """All metrics, as fractions; those of ``function`` as it gives them.

        Raises:
            BqcError: a prediction is not a finite number, or the user's function fails.
        """
        metrics = self.measure(examples, predictions)
        if self.function is not None:
            metrics |= _user_metrics(self.function, *self.named(examples, predictions))
        return metrics


def _user_metrics(function: MetricFunction, labels: Items, predictions: Items) -> dict[str, float]:
    name = getattr(function, "__name__", "metric")
    try:
        found = function(labels, predictions)
        values = found if isinstance(found, Mapping) else {name: found}
        return {str(key): float(value) for key, value in values.items()}
    except Exception as error:  # whatever the user's code raises
        raise BqcError(f"the metric function {name} failed: {type(error).__name__}: {error}") from error

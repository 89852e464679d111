"""Where the examples of the published tasks lie: official files, and the same rows on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bqc.errors import BqcError
from bqc.evaluate.rows import column_error, find_file, nearest, open_text, read_tsv
from bqc.evaluate.spans import Answers
from bqc.evaluate.task import Examples, Task

__all__ = [
    "Column",
    "ConllFiles",
    "GlueFiles",
    "HubAnswers",
    "HubRows",
    "HubWords",
    "SquadFile",
    "label_value",
]

Column = int | str
"""A column by position (negative: from the end) or by its name in the header."""

_HUB_SPLITS = {"train": "train", "dev": "validation"}


@dataclass(frozen=True)
class GlueFiles:
    """Tab-separated files of the GLUE layout: ``<data>/glue/<folder>/<split>.tsv``, read without quoting.

    Attributes:
        folder: the task's folder; ``glue/`` may be left out.
        text: the columns of the sentence, or of both sentences.
        label: the column of the label: an index, a score, or one of the task's ``labels``.
        header: whether the first line names the columns.
        files: split -> file name, where it is not ``<split>.tsv``.
        drop_short: leave out lines that lack columns: the official file has some, and the hub's rows do not.
    """

    folder: str
    text: tuple[Column, ...]
    label: Column
    header: bool = True
    files: Mapping[str, str] = field(default_factory=dict)
    drop_short: bool = False

    def read(self, task: Task, data: Path, split: str) -> Examples:
        folders = (f"glue/{self.folder}", self.folder)
        file = find_file(data, folders, (self.files.get(split, f"{split}.tsv"),), task.title)
        rows = read_tsv(file)
        header = next(rows, (0, []))[1] if self.header else []
        wanted = [_index(column, header, file) for column in (*self.text, self.label)]
        texts, labels = [], []
        for line, row in rows:
            try:
                *parts, label = (row[index].strip() for index in wanted)
            except IndexError:
                if self.drop_short:
                    continue
                raise BqcError(f"{file}:{line}: not a {task.title} row (it has {len(row)} columns)") from None
            texts.append(tuple(parts))
            labels.append(label_value(task, label, f"{file}:{line}"))
        return _examples(task, texts, labels, file)


@dataclass(frozen=True)
class ConllFiles:
    """``<data>/conll03/<file>``: a word a line, its tag in the last column, a blank line after a sentence.

    Tags may be IOB1, as published, or IOB2; examples have IOB2.

    Attributes:
        folder: the task's folder.
        files: split -> file names it goes by.
    """

    folder: str
    files: Mapping[str, Sequence[str]]

    def read(self, task: Task, data: Path, split: str) -> Examples:
        file = find_file(data, (self.folder, "."), self.files[split], task.title)
        sentences: list[tuple[list[str], list[str]]] = [([], [])]
        for number, line in enumerate(open_text(file).split("\n"), 1):
            fields = line.split()
            if not fields or fields[0] == "-DOCSTART-":
                sentences.append(([], []))
                continue
            if len(fields) < 2 or (fields[-1] not in task.labels and fields[-1][:2] not in ("B-", "I-")):
                raise BqcError(f"{file}:{number}: not a {task.title} line (a word and, last, its tag)")
            sentences[-1][0].append(fields[0])
            sentences[-1][1].append(fields[-1])
        kept = [(words, tags) for words, tags in sentences if words]
        tags_of = [[label_value(task, tag, file) for tag in _iob2(tags)] for _, tags in kept]
        return _tagged(task, [words for words, _ in kept], tags_of, file)


@dataclass(frozen=True)
class SquadFile:
    """``<data>/squad/<file>``: the official JSON layout.

    Attributes:
        folder: the task's folder.
        files: split -> file names it goes by.
    """

    folder: str
    files: Mapping[str, Sequence[str]]

    def read(self, task: Task, data: Path, split: str) -> Examples:
        file = find_file(data, (self.folder, "."), self.files[split], task.title)
        texts: list[tuple[str, ...]] = []
        answers = []
        try:
            for article in json.loads(open_text(file))["data"]:
                for paragraph in article["paragraphs"]:
                    for question in paragraph["qas"]:
                        texts.append((question["question"].strip(), paragraph["context"]))
                        right = question["answers"]
                        answers.append(
                            _answers([a["text"] for a in right], [a["answer_start"] for a in right])
                        )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BqcError(f"{file}: not in the SQuAD 1.1 layout ({type(error).__name__}: {error})") from None
        _some(texts, file)
        return Examples(texts, answers)


@dataclass(frozen=True)
class HubRows:
    """Rows with one or two text columns and a label."""

    dataset: str
    config: str | None
    text: tuple[str, ...]
    label: str = "label"
    splits: Mapping[str, str] = field(default_factory=lambda: dict(_HUB_SPLITS))
    revision: str | None = None

    def examples(self, task: Task, rows: Any) -> Examples:
        *texts, labels = _columns(self.dataset, rows, (*self.text, self.label))
        pairs = [tuple(str(text).strip() for text in row) for row in zip(*texts, strict=True)]
        values = [label_value(task, str(label), self.dataset) for label in labels]
        return _examples(task, pairs, values, self.dataset)


@dataclass(frozen=True)
class HubWords:
    """Rows with a list of words and a list of tag indices whose names the dataset carries."""

    dataset: str
    config: str | None
    words: str = "tokens"
    tags: str = "ner_tags"
    splits: Mapping[str, str] = field(default_factory=lambda: dict(_HUB_SPLITS))
    revision: str | None = None

    def examples(self, task: Task, rows: Any) -> Examples:
        words, tags = _columns(self.dataset, rows, (self.words, self.tags))
        names = _tag_names(rows.features[self.tags]) or task.labels
        values = [[label_value(task, names[tag], self.dataset) for tag in row] for row in tags]
        return _tagged(task, words, values, self.dataset)


@dataclass(frozen=True)
class HubAnswers:
    """Rows of the SQuAD layout: ``question``, ``context``, ``answers``."""

    dataset: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: dict(_HUB_SPLITS))
    revision: str | None = None

    def examples(self, task: Task, rows: Any) -> Examples:
        questions, contexts, answers = _columns(self.dataset, rows, ("question", "context", "answers"))
        texts: list[tuple[str, ...]] = [
            (question.strip(), context) for question, context in zip(questions, contexts, strict=True)
        ]
        _some(texts, self.dataset)
        return Examples(texts, [_answers(row["text"], row["answer_start"]) for row in answers])


def label_value(task: Task, text: str, where: object) -> float:
    """A label column's text as a number: a score, a class index, or the index of a class or tag by name.

    Raises:
        BqcError: it is none; the message begins with ``where`` and names the labels there are.
    """
    if text in task.labels:
        return float(task.labels.index(text))
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if task.labels and value not in range(len(task.labels)):
        raise BqcError(f"{where}: label '{text}' is not one of {task.title}'s{nearest(text, task.labels)}")
    if not np.isfinite(value):
        raise BqcError(f"{where}: label '{text}' is not a number, which {task.title} needs")
    return value


def _index(column: Column, header: list[str], file: Path) -> int:
    if isinstance(column, int):
        return column
    if column not in header:
        raise column_error(file, column, header)
    return header.index(column)


def _columns(dataset: str, rows: Any, names: Sequence[str]) -> list[list[Any]]:
    for name in names:
        if name not in rows.column_names:
            raise column_error(dataset, name, rows.column_names)
    return [list(rows[name]) for name in names]


def _tag_names(feature: Any) -> Sequence[str] | None:
    inner = getattr(feature, "feature", None)
    return getattr(inner, "names", None)


def _iob2(tags: Iterable[str]) -> list[str]:
    """IOB1 tags as IOB2: an entity begins with B- wherever it stands. IOB2 tags stay as they are."""
    result, before = [], "O"
    for tag in tags:
        begins = tag.startswith("I-") and before[2:] != tag[2:]
        result.append(f"B-{tag[2:]}" if begins else tag)
        before = tag
    return result


def _answers(texts: Sequence[str], starts: Sequence[int]) -> Answers:
    if not texts:
        raise ValueError("a question without an answer, as SQuAD 2.0 has them")
    return Answers(tuple(map(str, texts)), tuple(map(int, starts)))


def _examples(task: Task, texts: list[tuple[str, ...]], labels: list[float], where: object) -> Examples:
    _some(texts, where)
    return Examples(texts, np.asarray(labels, dtype=np.int64 if task.labels else np.float32))


def _tagged(
    task: Task, words: Sequence[Sequence[str]], tags: Sequence[Sequence[float]], where: object
) -> Examples:
    _some(words, where)
    return Examples([tuple(row) for row in words], [np.asarray(row, dtype=np.int64) for row in tags])


def _some(rows: Sequence[Any], where: object) -> None:
    if not rows:
        raise BqcError(f"{where}: no rows")

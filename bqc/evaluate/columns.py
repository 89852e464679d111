"""A task out of any file with named columns: the user's own data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bqc.errors import BqcError
from bqc.evaluate.metrics import check_metrics
from bqc.evaluate.rows import FORMATS, column_error, find_file, read_rows
from bqc.evaluate.sentences import SentenceTask
from bqc.evaluate.sources import label_value
from bqc.evaluate.task import Examples, MetricFunction, Task

__all__ = ["ColumnFile", "column_task"]


@dataclass(frozen=True)
class ColumnFile:
    """A .csv, .tsv or .jsonl file, or a folder with one a split (``dev.csv``).

    Attributes:
        text: the columns of the text, or of both texts.
        label: the column of the label.
    """

    text: tuple[str, ...]
    label: str

    def read(self, task: Task, data: Path, split: str) -> Examples:
        file = data
        if not data.is_file():
            file = find_file(data, (".",), [f"{split}{suffix}" for suffix in FORMATS], task.title)
        texts, labels = [], []
        for line, row in read_rows(file):
            for column in (*self.text, self.label):
                if column not in row:
                    raise column_error(f"{file}:{line}", column, row)
            texts.append(tuple(_text(row[column], f"{file}:{line}", column) for column in self.text))
            labels.append(label_value(task, _plain(row[self.label]), f"{file}:{line}"))
        if not texts:
            raise BqcError(f"{file}: no rows")
        return Examples(texts, np.asarray(labels, dtype=np.int64 if task.labels else np.float32))


def column_task(
    text: str,
    label: str,
    pair: str | None = None,
    *,
    labels: Sequence[str] = (),
    regression: bool = False,
    metrics: Sequence[str] = (),
    function: MetricFunction | None = None,
) -> SentenceTask:
    """Classification or regression of the texts in a file's columns.

    Args:
        text: column of the text.
        label: column of the label: a class name or index, or a number.
        pair: column of the second text, for pairs.
        labels: class names in index order. None given leaves the choice to `SentenceTask.fit`: those that the
            model's ``config.json`` names, or a number if the model has one output.
        regression: the label is a number.
        metrics: names in ``bqc.evaluate.metrics``; by default accuracy and macro F1, or Spearman and Pearson.
        function: a metric of the user's.

    Raises:
        BqcError: no such metric.
    """
    check_metrics(metrics)
    default = ("spearman", "pearson") if regression else ("accuracy", "macro_f1") if labels else ()
    columns = (text,) if pair is None else (text, pair)
    return SentenceTask(
        name="columns",
        title="the file",
        labels=tuple(labels),
        regression=regression,
        pair=pair is not None,
        metrics=tuple(metrics) or default,
        local=ColumnFile(columns, label),
        function=function,
    )


def _text(value: Any, where: str, column: str) -> str:
    if not isinstance(value, str):
        raise BqcError(f"{where}: column '{column}' holds {json.dumps(value)[:40]}, which is not a text")
    return value.strip()


def _plain(value: Any) -> str:
    """A JSON label as the text a CSV file would hold."""
    return value.strip() if isinstance(value, str) else json.dumps(value)

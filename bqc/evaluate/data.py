"""Reading a task's rows, from a local folder or from the hub: both give the same examples."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from bqc.errors import BqcError
from bqc.evaluate.extras import require
from bqc.evaluate.task import Column, Examples, Task

__all__ = ["DATA_VARIABLE", "SPLITS", "load_examples", "read_hub", "read_local"]

DATA_VARIABLE = "BQC_DATA"
SPLITS = ("dev", "train")


def load_examples(task: Task, data: str | Path | None = None, split: str = "dev") -> Examples:
    """A split of a task: from the folder ``data``, else the one ``BQC_DATA`` names, else the hub.

    Raises:
        BqcError: the rows are not there or cannot be read.
    """
    folder = data or os.environ.get(DATA_VARIABLE)
    return read_local(task, folder, split) if folder else read_hub(task, split)


def read_local(task: Task, data: str | Path, split: str = "dev") -> Examples:
    """A split of a task from ``<data>/glue/<folder>/<split>.tsv`` (``glue/`` may be left out).

    Raises:
        BqcError: the folder or file is missing, or a line does not have the task's columns.
    """
    source = task.local
    root = Path(data)
    if not root.is_dir():
        raise BqcError(f"data folder {root}: no such folder")
    name = Path(source.folder) / source.files.get(split, f"{split}.tsv")
    file = next((path for path in (root / "glue" / name, root / name) if path.is_file()), None)
    if file is None:
        raise BqcError(f"{task.title} needs {Path('glue') / name} under {root}, which is not there")
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    # GLUE files hold lone quote characters, and some begin with a byte order mark.
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(rows, []) if source.header else []
        for row in rows:
            try:
                texts.append(tuple(row[_index(column, header)].strip() for column in source.text))
                labels.append(_label(task, row[_index(source.label, header)]))
            except (IndexError, ValueError) as error:
                raise BqcError(f"{file}:{rows.line_num}: not a {task.title} row ({error})") from error
    if not texts:
        raise BqcError(f"{file}: no rows")
    return _examples(task, texts, labels)


def read_hub(task: Task, split: str = "dev") -> Examples:
    """A split of a task from the Hugging Face hub, or from the cache ``datasets`` keeps of it.

    Raises:
        BqcError: ``datasets`` is not installed, or the hub cannot be reached.
    """
    source = task.hub
    datasets = require("datasets", "hub")
    try:
        rows = datasets.load_dataset(source.dataset, source.config, split=source.splits[split])
    except Exception as error:  # datasets, huggingface_hub and the HTTP client each raise their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BqcError(
            f"cannot load {source.dataset}/{source.config} from the hub ({reason}): "
            f"give a local folder with --data DIR or {DATA_VARIABLE}"
        ) from error
    columns = [list(rows[column]) for column in source.text]
    texts = [tuple(str(text).strip() for text in row) for row in zip(*columns, strict=True)]
    return _examples(task, texts, [float(label) for label in rows[source.label]])


def _index(column: Column, header: list[str]) -> int:
    return header.index(column) if isinstance(column, str) else column


def _label(task: Task, text: str) -> float:
    """A label column's text: a score, a class index, or a class name."""
    if text in task.labels:
        return float(task.labels.index(text))
    value = float(text)
    if not task.regression and value not in range(len(task.labels)):
        raise ValueError(f"label {text!r}")
    return value


def _examples(task: Task, texts: list[tuple[str, ...]], labels: list[float]) -> Examples:
    if task.regression:
        return Examples(texts, np.asarray(labels, dtype=np.float32))
    return Examples(texts, np.asarray(labels, dtype=np.int64))

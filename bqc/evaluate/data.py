"""Reading a task's examples, from a local folder or from the hub: both give the same."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bqc.errors import BqcError
from bqc.evaluate.extras import require
from bqc.evaluate.task import Examples, Task

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
    """A split of a task from files in their official layout (docs/tasks.md).

    Raises:
        BqcError: the folder or file is missing, or a line does not have the task's columns or labels.
    """
    return task.local.read(task, Path(data), split)


def read_hub(task: Task, split: str = "dev") -> Examples:
    """A split of a task from the Hugging Face hub, or from the cache ``datasets`` keeps of it.

    Raises:
        BqcError: the task is in files only, ``datasets`` is not installed, or the hub cannot be reached.
    """
    source = task.hub
    if source is None:
        raise BqcError(f"{task.title} has to be named with --data FILE")
    datasets = require("datasets", "hub")
    name = "/".join(part for part in (source.dataset, source.config) if part)
    try:
        with _hushed("huggingface_hub"):
            rows = datasets.load_dataset(
                source.dataset, source.config, split=source.splits[split], revision=source.revision
            )
    except Exception as error:  # datasets, huggingface_hub and the HTTP client each raise their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BqcError(
            f"cannot load {name} from the hub ({reason}): "
            f"give a local folder with --data DIR or {DATA_VARIABLE}"
        ) from error
    return source.examples(task, rows)


@contextmanager
def _hushed(name: str) -> Iterator[None]:
    """No warnings of a package, such as one for every attempt: the error that comes of them says it all."""
    # importing the package sets its level, which would undo ours
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

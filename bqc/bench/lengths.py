"""How long real rows are: token counts of a task's rows, from its data or from a built-in histogram."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bqc.errors import BqcError

__all__ = ["HISTOGRAMS", "built_in_lengths", "measured_lengths"]

HISTOGRAMS = Path(__file__).with_name("lengths.json")
"""Histograms of GLUE's development sets; the file says where they come from. tools/length_histograms.py writes it."""


def built_in_lengths(task: str) -> list[int]:
    """Tokens of every row of a task's development set, special tokens included, shortest first.

    Raises:
        BqcError: there is no histogram of that task.
    """
    tasks = json.loads(HISTOGRAMS.read_text(encoding="utf-8"))["tasks"]
    if task not in tasks:
        raise BqcError(
            f"no built-in lengths of '{task}': there are {', '.join(tasks)}; another task's are read with --data DIR"
        )
    return [int(length) for length, rows in tasks[task].items() for _ in range(rows)]


def measured_lengths(task: str, data: Path, tokenizers: Sequence[Path]) -> list[int]:
    """Tokens of every row of a task's development set in the folder ``data``, by the first tokenizer there is.

    Args:
        task: a task of ``bqc eval``.
        data: folder of the task's files.
        tokenizers: folders that may hold ``tokenizer.json``.

    Raises:
        BqcError: no such task, no data, or no tokenizer.
    """
    from bqc.evaluate.data import read_local
    from bqc.evaluate.tasks import find_task
    from bqc.evaluate.tokens import TextEncoder

    rows = read_local(find_task(task), data)
    folder = next((one for one in tokenizers if (one / "tokenizer.json").is_file()), None)
    if folder is None:
        raise BqcError("--data needs a tokenizer: no tokenizer.json lies beside any of the models")
    return [len(encoding.ids) for encoding in TextEncoder(folder).encode(rows.texts)]

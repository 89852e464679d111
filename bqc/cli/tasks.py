"""Options that name a task and its data, for every verb that needs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bqc.cli.common import FILE

if TYPE_CHECKING:
    from bqc.evaluate.task import Task

__all__ = ["chosen_task", "metric_options", "task_options"]


def task_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--task`` and ``--data``, or ``--data FILE`` with ``--text-column`` and ``--label-column``."""
    for option in (
        click.option(
            "--labels", metavar="A,B,...", help="Class names in index order. [default: the model's]"
        ),
        click.option("--label-column", metavar="NAME", help="Column of the label in your file."),
        click.option("--pair-column", metavar="NAME", help="Column of the second text, for pairs."),
        click.option("--text-column", metavar="NAME", help="Column of the text in your file."),
        click.option(
            "--data",
            type=FILE,
            metavar="PATH",
            help="Folder with the task's files, or a .csv, .tsv or .jsonl file. [default: BQC_DATA, else the hub]",
        ),
        click.option(
            "--task", metavar="TASK", help="sst2, mrpc, squad, conll03, ...: docs/tasks.md has all."
        ),
    ):
        function = option(function)
    return function


def metric_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--metric`` of a file of one's own, and ``--metric-fn`` of any task."""
    for option in (
        click.option(
            "--metric-fn",
            metavar="MODULE:FUNCTION",
            help="Your own metric: function(labels, predictions) gives a number, or names and numbers.",
        ),
        click.option(
            "--metric",
            "metrics",
            multiple=True,
            metavar="NAME",
            help="Metric for a file of your own: accuracy, f1, macro_f1, matthews, pearson, spearman. Repeatable.",
        ),
    ):
        function = option(function)
    return function


def chosen_task(
    task: str | None,
    data: Path | None,
    text_column: str | None,
    pair_column: str | None,
    label_column: str | None,
    labels: str | None,
    metrics: tuple[str, ...] = (),
    metric_fn: str | None = None,
) -> Task:
    """The task that the options name.

    Raises:
        click.UsageError: they name none, or half of one.
        BqcError: there is no such task or metric.
    """
    own = {
        "--text-column": text_column,
        "--pair-column": pair_column,
        "--label-column": label_column,
        "--labels": labels,
        "--metric": metrics or None,
    }
    given = [option for option, value in own.items() if value is not None]
    if task is not None:
        if given:
            raise click.UsageError(f"{given[0]} is for a file of your own, and --task {task} has its own")
        from bqc.evaluate.tasks import find_task

        return _measured(find_task(task), metric_fn)
    if text_column is None or label_column is None:
        raise click.UsageError("give --task, or --text-column and --label-column of a file of your own")
    if data is None:
        raise click.UsageError("--text-column is of a file: give it with --data FILE")
    from bqc.evaluate.columns import column_task

    names = tuple(name.strip() for name in labels.split(",")) if labels else ()
    own_task = column_task(text_column, label_column, pair_column, labels=names, metrics=metrics)
    return _measured(own_task, metric_fn)


def _measured(task: Task, metric_fn: str | None) -> Task:
    if metric_fn is None:
        return task
    from bqc.evaluate.metrics import find_function

    return replace(task, function=find_function(metric_fn))

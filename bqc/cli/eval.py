"""``bqc eval``: accuracy of models on a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bqc.cli.common import (
    FILE,
    Settings,
    common_options,
    emit_json,
    examples,
    progress_bar,
    say,
    table,
    threads_option,
)
from bqc.cli.tasks import chosen_task, metric_options, task_options

if TYPE_CHECKING:
    from bqc.evaluate import EvalResult

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "eval",
    epilog=examples(
        "bqc eval model.onnx --task sst2 --data DATA",
        "bqc eval model.onnx model.bqc.onnx --task mrpc",
        "bqc eval model.onnx --data reviews.csv --text-column review --label-column stars",
    ),
)
@click.argument("models", nargs=-1, required=True, type=FILE, metavar="MODEL...")
@task_options
@click.option(
    "--split", type=click.Choice(["dev", "train"]), default="dev", show_default=True, help="Rows to score."
)
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="Score the first N rows only.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows a run.")
@click.option(
    "--max-length",
    type=click.IntRange(min=3),
    metavar="N",
    help="Tokens to keep of an example or window. [default: the task's, or the model's positions]",
)
@click.option(
    "--tokenizer", type=FILE, metavar="DIR", help="Folder of tokenizer.json. [default: the model's]"
)
@metric_options
@threads_option
@click.option("--strict", is_flag=True, help="A node without a kernel is an error, not a warning.")
@click.option(
    "--no-library", is_flag=True, help="Run function bodies in plain ONNX Runtime, without kernels."
)
@common_options
def command(
    settings: Settings,
    models: tuple[Path, ...],
    split: str,
    limit: int | None,
    batch_size: int,
    max_length: int | None,
    tokenizer: Path | None,
    metrics: tuple[str, ...],
    metric_fn: str | None,
    threads: int | None,
    strict: bool,
    no_library: bool,
    data: Path | None,
    **columns: Any,
) -> None:
    """Score models, float or compiled, on a task or on a file of your own.

    With several models the table shows each one's difference from the first. Metrics are fractions in the
    JSON output and times 100 in the table.
    """
    from bqc.evaluate import evaluate

    task = chosen_task(data=data, metrics=metrics, metric_fn=metric_fn, **columns)
    results = []
    for model in models:
        with progress_bar(settings, model.name) as progress:
            results.append(
                evaluate(
                    model,
                    task,
                    data,
                    split=split,
                    limit=limit,
                    batch_size=batch_size,
                    threads=threads,
                    tokenizer=tokenizer,
                    max_length=max_length,
                    strict=strict,
                    library=not no_library,
                    progress=progress,
                )
            )
    if settings.json:
        emit_json(SCHEMA_VERSION, {"results": [result.to_dict() for result in results]})
        return
    if settings.quiet:
        return
    title = f"{task.title} {split}" if data is None or not data.is_file() else data.name
    _print(title, results)
    if results[0].head in ("embedding", "hidden"):
        say(settings, "embedding model: scored by the cosine similarity of each pair")
    elif task.labels and not all(result.labels_checked for result in results):
        say(settings, "config.json names no labels: their order is taken to be the task's")


def _print(title: str, results: Sequence[EvalResult]) -> None:
    names = list(results[0].metrics)
    columns = ["model", *(f">{name}" for name in names), ">examples", ">seconds", ">examples/s"]
    several = len(results) > 1
    if several:
        columns.insert(1 + len(names), f">{names[0]} change")
    rows = []
    for result in results:
        row = [result.model, *(f"{100 * result.metrics[name]:.2f}" for name in names)]
        if several:
            row.append(f"{100 * (result.metrics[names[0]] - results[0].metrics[names[0]]):+.2f}")
        row += [str(result.examples), f"{result.seconds:.2f}", f"{result.examples_per_second:.1f}"]
        rows.append(row)
    table(title, columns, rows)

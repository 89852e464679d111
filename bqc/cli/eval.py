"""``bqc eval``: accuracy of models on a task."""

from __future__ import annotations

from pathlib import Path

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

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "eval",
    epilog=examples(
        "bqc eval model.onnx --task sst2 --data DATA",
        "bqc eval model.onnx model.bqc.onnx --task mrpc",
    ),
)
@click.argument("models", nargs=-1, required=True, type=FILE, metavar="MODEL...")
@click.option("--task", required=True, metavar="TASK", help="sst2, mrpc, cola or stsb.")
@click.option(
    "--data", type=FILE, metavar="DIR", help="Folder with the task's files. [default: BQC_DATA, else the hub]"
)
@click.option(
    "--split", type=click.Choice(["dev", "train"]), default="dev", show_default=True, help="Rows to score."
)
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="Score the first N rows only.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows a run.")
@click.option(
    "--max-length",
    type=click.IntRange(min=3),
    metavar="N",
    help="Tokens to keep of a text or pair. [default: 128, or the model's positions]",
)
@click.option(
    "--tokenizer", type=FILE, metavar="DIR", help="Folder of tokenizer.json. [default: the model's]"
)
@threads_option
@click.option("--strict", is_flag=True, help="A node without a kernel is an error, not a warning.")
@click.option(
    "--no-library", is_flag=True, help="Run function bodies in plain ONNX Runtime, without kernels."
)
@common_options
def command(
    settings: Settings,
    models: tuple[Path, ...],
    task: str,
    data: Path | None,
    split: str,
    limit: int | None,
    batch_size: int,
    max_length: int | None,
    tokenizer: Path | None,
    threads: int | None,
    strict: bool,
    no_library: bool,
) -> None:
    """Score models, float or compiled, on a task.

    With several models the table shows each one's difference from the first. Metrics are fractions in the
    JSON output and times 100 in the table.
    """
    from bqc.evaluate import evaluate
    from bqc.evaluate.tasks import find_task

    found = find_task(task)
    results = []
    for model in models:
        with progress_bar(settings, model.name) as progress:
            results.append(
                evaluate(
                    model,
                    found,
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
    first = results[0]
    columns = ["model", *(f">{name}" for name in found.metrics), ">examples", ">seconds", ">examples/s"]
    several = len(results) > 1
    if several:
        columns.insert(1 + len(found.metrics), f">{found.metrics[0]} change")
    rows = []
    for result in results:
        row = [result.model, *(f"{100 * result.metrics[name]:.2f}" for name in found.metrics)]
        if several:
            row.append(f"{100 * (result.metrics[found.metrics[0]] - first.metrics[found.metrics[0]]):+.2f}")
        row += [str(result.examples), f"{result.seconds:.2f}", f"{result.examples_per_second:.1f}"]
        rows.append(row)
    table(f"{found.title} {split}", columns, rows)
    if first.head != "logits":
        say(settings, "embedding model: scored by the cosine similarity of each pair")

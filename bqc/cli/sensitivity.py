"""``bqc sensitivity``: which parts of a model lose most when they are quantised."""

from __future__ import annotations

import json
import re
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
    seed_option,
    table,
    threads_option,
)
from bqc.cli.tasks import chosen_task, task_options
from bqc.errors import BqcError

if TYPE_CHECKING:
    from bqc.formats.stored import WeightFormat
    from bqc.sensitivity import Sensitivity

__all__ = ["command"]

SCHEMA_VERSION = 1

_PARTS = {"weights": "weight", "activations": "activation"}


@click.command(
    "sensitivity",
    epilog=examples(
        "bqc sensitivity model.onnx --metric weight-error",
        "bqc sensitivity model.onnx --metric kl --formats 8,4,2 --task sst2 -o s.json --html s.html",
        "bqc sensitivity model.onnx --metric hessian --task sst2 -o hessian.json",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL")
@click.option(
    "--metric",
    metavar="NAME",
    help="weight-error, mse, kl, fisher, hessian or hessian-trace. [default: kl; weight-error without data]",
)
@click.option(
    "--formats",
    default="8,4",
    show_default=True,
    metavar="F,F,...",
    help="Formats to score: BlockShift(4,64), or bits of it; Ternary(row).",
)
@click.option(
    "--parts",
    default="weights",
    show_default=True,
    metavar="P,P",
    help="weights, activations or both.",
)
@task_options
@click.option(
    "--split",
    type=click.Choice(["train", "dev"]),
    default="train",
    show_default=True,
    help="Rows to draw examples from.",
)
@click.option("--inputs", type=FILE, metavar="FILE.npz", help="Inputs without labels, one array an input.")
@click.option(
    "--examples",
    "count",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Random examples; of the Hessian's metrics, a subset.",
)
@click.option(
    "--subsets",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Random subsets for the Hessian's metrics.",
)
@click.option(
    "--block",
    type=click.Choice(["role", "layer"]),
    default="role",
    show_default=True,
    help="Block of the Hessian: a weight, or a whole layer as in Q-BERT.",
)
@seed_option
@click.option(
    "--tokenizer", type=FILE, metavar="DIR", help="Folder of tokenizer.json. [default: the model's]"
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE.json",
    help="Write the scores; an interrupted run goes on from FILE.json.partial, a finished one is not repeated.",
)
@click.option("--html", type=FILE, metavar="FILE.html", help="Write a heat map, one self-contained page.")
@threads_option
@common_options
def command(
    settings: Settings,
    model: Path,
    metric: str | None,
    formats: str,
    parts: str,
    split: str,
    inputs: Path | None,
    count: int,
    subsets: int,
    block: str,
    seed: int,
    tokenizer: Path | None,
    output: Path | None,
    html: Path | None,
    threads: int | None,
    data: Path | None,
    **columns: Any,
) -> None:
    """Score every weight or activation of a float model, quantised alone in each format.

    Scores are for ranking: the larger, the more is lost. `annotate-sensitivity{scores=FILE}` writes them onto the
    graph for plans to read.
    """
    from bqc.artifact import require_writable
    from bqc.evaluate.extras import require
    from bqc.sensitivity import analyze
    from bqc.sensitivity.analysis import DEFAULT_METRIC
    from bqc.sensitivity.heatmap import heat_map
    from bqc.sensitivity.options import Options

    wanted = columns["task"] is not None or columns["text_column"] is not None
    task = chosen_task(data=data, **columns) if wanted else None
    if metric is None:
        metric = DEFAULT_METRIC if task is not None or inputs is not None else "weight-error"
    # What is lacking is said before an hour of work.
    if html is not None:
        require("plotly", "report")
    for path in (output, html):
        if path is not None:
            require_writable(path)
    journal = None if output is None else Path(f"{output}.partial")
    with progress_bar(settings, metric) as progress:
        found = analyze(
            model,
            metric,
            _formats(formats),
            parts=_kinds(parts),
            task=task,
            data=data,
            split=split,
            inputs=inputs,
            options=Options(examples=count, subsets=subsets, block=block, seed=seed),
            tokenizer=tokenizer,
            threads=threads,
            journal=journal,
            earlier=output,
            progress=progress,
        )
    if html is not None:
        _write(html, heat_map(found, model.name))
    if output is not None and journal is not None:
        if not journal.exists():
            say(settings, f"{output}: has these scores already; nothing was measured", err=True)
        _write(output, json.dumps(found.to_dict(), indent=1) + "\n")
        journal.unlink(missing_ok=True)
    if settings.json:
        emit_json(SCHEMA_VERSION, found.to_dict())
        return
    if not settings.quiet:
        _print(found, model)
    for path in (output, html):
        if path is not None:
            say(settings, str(path))


def _write(path: Path, text: str) -> None:
    from bqc.staging import write_text

    try:
        write_text(path, text)
    except OSError as error:
        raise BqcError(f"{path}: cannot be written: {error.strerror}") from error


def _print(found: Sensitivity, model: Path) -> None:
    for part in ("weight", "activation"):
        names = [fmt for fmt in found.formats if found.values(part, fmt)]
        if not names:
            continue
        rows = []
        for place, score in enumerate(found.ranked(part, names[-1]), 1):
            shared = f" (and {len(score.also)} more)" if score.also else ""
            rows.append([place, f"{score.key}{shared}", *(f"{score.formats[fmt]:.4g}" for fmt in names)])
        on = f", {found.sample}" if found.sample else ""
        title = f"{model.name}: {found.metric} of {part}s, by {names[-1]}{on}"
        table(title, [">rank", "layer:role", *(f">{fmt}" for fmt in names)], rows)


def _formats(text: str) -> list[WeightFormat]:
    from bqc.formats import BlockShift
    from bqc.formats.stored import weight_format

    found: list[WeightFormat] = []
    for item in re.split(r",(?![^(]*\))", text.replace(" ", "")):
        try:
            fmt = BlockShift(int(item)) if item.isdigit() else weight_format(item)
        except ValueError as error:
            raise click.UsageError(f"--formats: {error}") from None
        if fmt not in found:
            found.append(fmt)
    return found


def _kinds(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = next((name for name in names if name not in _PARTS), None)
    if unknown is not None:
        raise click.UsageError(f"--parts: '{unknown}' is none of {', '.join(_PARTS)}")
    return list(dict.fromkeys(_PARTS[name] for name in names))

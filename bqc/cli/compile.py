"""``bqc compile``: from a float model to a small, fast one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
)
from bqc.cli.scheme_options import scheme_options, take_scheme_options
from bqc.cli.watch import Watch, watch_options

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "compile",
    epilog=examples(
        "bqc compile model.onnx --scheme bbct",
        "bqc compile model.onnx --weight-bits 4 --max-error 0.016 -o out/",
        "bqc compile model.onnx --scheme binarybert --weights two-plane",
        "bqc compile model.onnx --exclude '0:*' --exclude head --dry-run",
        "bqc compile model.onnx --unpad",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL")
@click.option(
    "--scheme", default="bbct", show_default=True, metavar="NAME", help="Published scheme to apply."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR/",
    help="File, or folder that also gets config and tokenizer. [default: MODEL.bqc.onnx beside it]",
)
@scheme_options
@click.option(
    "--block-fallback",
    type=click.Choice(["error", "pad", "shrink", "keep"]),
    help="Where the block does not divide an axis: refuse, a shorter last block, a smaller one, float.",
)
@click.option(
    "--max-error", type=float, metavar="X", help="Keep roles at 8 bits whose relative weight error is larger."
)
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Only these: ROLE or LAYER:ROLE, with * and ?."
)
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="All but these: ROLE or LAYER:ROLE, with * and ?."
)
@click.option("--recipe", type=FILE, metavar="FILE", help="Take the whole plan from a YAML file.")
@click.option("--save-recipe", type=FILE, metavar="FILE", help="Write the plan as YAML.")
@click.option("--dry-run", is_flag=True, help="Show the plan, write no model.")
@click.option("--single-file", is_flag=True, help="Weights inside the .onnx file instead of beside it.")
@click.option("--unpad", is_flag=True, help="Take padding out of batches: layers run on tokens alone.")
@click.option("--require-full", is_flag=True, help="Refuse a model of which any part would stay float.")
@click.option("--explain", is_flag=True, help="Say which predicate failed where a pattern nearly matched.")
@watch_options
@seed_option
@common_options
def command(settings: Settings, model: Path, scheme: str, output: str | None, **options: Any) -> None:
    """Compile a float encoder to a small, fast ONNX file that ONNX Runtime runs.

    Without bqc's kernel library the file runs in plain ONNX Runtime, with the same bits, slower.
    """
    from bqc.compiler import compile as compile_model

    chosen = take_scheme_options(options)
    watch = Watch.of(options)
    # What was not asked for is left to the recipe or the scheme.
    asked = chosen | {name: value for name, value in options.items() if value is not None and value != ()}
    with progress_bar(settings, f"{scheme}: {model.name}") as progress:
        result = compile_model(
            model, scheme, output, options=asked, progress=progress, instruments=watch.instruments
        )
    if settings.json:
        watched = {"watched": watch.rows()} if watch.timing or watch.stats else {}
        emit_json(SCHEMA_VERSION, {**result.to_dict(), **watched})
        return
    if settings.quiet:
        return
    watch.show(settings)
    table(f"{model.name}, {result.plan.scheme or scheme}", ("", ""), result.summary)
    for path in result.paths:
        say(settings, str(path))

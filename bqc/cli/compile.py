"""``bqc compile``: from a float model to a small, fast one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bqc.cli.common import (
    FILE,
    Settings,
    Shape,
    common_options,
    emit_json,
    examples,
    progress_bar,
    say,
    seed_option,
    table,
)
from bqc.cli.scheme_options import option_name, require_options, scheme_options, take_scheme_options
from bqc.cli.watch import Watch, watch_options
from bqc.errors import BqcError

if TYPE_CHECKING:
    from bqc.bench.break_even import BreakEven

__all__ = ["command"]

SCHEMA_VERSION = 1
_OF_PLAN = ("block_fallback", "max_error", "include", "exclude")
"""Options that choose formats, besides those of the schemes."""


@click.command(
    "compile",
    epilog=examples(
        "bqc compile model.onnx --scheme bbct",
        "bqc compile model.onnx --weight-bits 4 --max-error 0.016 -o out/",
        "bqc compile model.onnx --scheme binarybert --weights two-plane",
        "bqc compile model.onnx --exclude '0:*' --exclude head --dry-run",
        "bqc compile model.onnx --unpad",
        "bqc compile model.onnx --recipe sparse.yaml --measure 1x16 --measure 8x128 --keep-dense",
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
@click.option(
    "--measure",
    multiple=True,
    type=Shape(),
    metavar="BxS",
    help="Time every format against dense 8 bits at this batch and tokens; may be repeated.",
)
@click.option(
    "--keep-dense", is_flag=True, help="8 bits for linears that are slower in their format wherever measured."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of what is measured. [default: 1]")
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

    if (options["keep_dense"] or options["threads"]) and not options["measure"]:
        raise click.UsageError("--keep-dense and --threads go with --measure BxS")
    chosen = take_scheme_options(options)
    watch = Watch.of(options)
    # What was not asked for is left to the recipe or the scheme.
    asked = chosen | {name: value for name, value in options.items() if value is not None and value != ()}
    beside = sorted(name for name in asked if name in chosen or name in _OF_PLAN)
    if options["recipe"] is not None and beside:
        shown = ", ".join(map(option_name, beside))
        raise BqcError(f"a recipe is a whole plan: leave out {shown} or --recipe")
    if options["recipe"] is None:
        require_options(scheme, beside)
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
    if result.break_even is not None:
        _show_speeds(settings, result.break_even)
    for path in result.paths:
        say(settings, str(path))


def _show_speeds(settings: Settings, found: BreakEven) -> None:
    if found.floats:
        count = len(found.floats)
        linears = "1 linear runs in float and is" if count == 1 else f"{count} linears run in float and are"
        say(settings, f"{linears} not timed")
    if not found.speeds:
        others = "every other linear" if found.floats else "every linear"
        say(settings, f"nothing to measure: {others} is dense 8 bits")
        return
    threads = "1 thread" if found.machine.threads == 1 else f"{found.machine.threads} threads"
    table(
        f"products against dense 8 bits, {threads}, {found.isa}, {found.machine.cpu}",
        ("format", ">K x N", ">linears", ">rows", ">ms", ">dense ms", ">times as fast", ">range"),
        [
            (
                speed.format,
                f"{speed.columns} x {speed.outputs}",
                len(speed.linears),
                speed.rows,
                f"{speed.milliseconds:.4g}",
                f"{speed.dense_milliseconds:.4g}",
                f"{speed.ratio:.2f}x",
                f"{speed.ratio_min:.2f}-{speed.ratio_max:.2f}",
            )
            for speed in found.speeds
        ],
    )
    for speed in found.slower:
        say(settings, str(speed))

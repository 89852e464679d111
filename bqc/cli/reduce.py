"""``bqc reduce``: make a model small that shows a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bqc.cli.common import FILE, Settings, common_options, emit_json, examples, progress_bar, say
from bqc.cli.pipeline import chosen_pipeline, command_check, pipeline_options, timeout_option

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "reduce",
    epilog=examples(
        "bqc reduce good.onnx -p fold-gelu -o small.onnx",
        "bqc reduce model.onnx --check 'python runs_fine.py {}' -o small.onnx --check-timeout 20",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL")
@pipeline_options
@click.option(
    "--check",
    metavar="CMD",
    help="Command that gets the path of a model for {} or at its end, and ends with 0 if that is good. "
    "Instead of a pipeline, which is good if it raises nothing and keeps what its passes promise.",
)
@timeout_option
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    metavar="FILE",
    help="Where the small model goes; text for *.onnxtxt, and on stdout for '-'.",
)
@common_options
def command(settings: Settings, model: Path, output: Path, **options: Any) -> None:
    """Take nodes, layers and sizes away from a model while it fails in the same way.

    A check is good with exit status 0 and bad with any other, as for 'bqc bisect'. A smaller model fails in the same
    way if the check ends with the same status as on MODEL; a pipeline, if it raises the same kind of error or again
    changes what is computed. The result is valid ONNX.
    """
    passes, check = chosen_pipeline(options), command_check(options)
    if (passes is None) == (check is None):
        raise click.UsageError("give either --check, or --passes or --scheme")
    from bqc.opt import STDOUT
    from bqc.pipeline.checks import PipelineHolds
    from bqc.reduce import reduce

    prints = output == STDOUT
    if settings.json and prints:
        raise click.UsageError("--json and -o - both print on standard output; give one of them")
    with progress_bar(settings, f"reducing {model.name}") as progress:
        found = reduce(model, check or PipelineHolds(passes or ()), output, progress=progress)
    if settings.json:
        emit_json(SCHEMA_VERSION, found.to_dict())
        return
    say(
        settings,
        f"{found.nodes[0]} -> {found.nodes[1]} nodes, {found.bytes[0]:,} -> {found.bytes[1]:,} bytes",
        err=prints,
    )
    say(settings, f"{found.failure} ({found.checks} checks)", err=prints)
    if not prints:
        say(settings, str(found.path))

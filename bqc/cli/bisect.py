"""``bqc bisect``: which rewrite of a pipeline makes a model fail a check."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from bqc.cli.common import FILE, Settings, common_options, emit_json, examples, progress_bar, say
from bqc.cli.pipeline import chosen_pipeline, command_check, pipeline_options, timeout_option

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "bisect",
    epilog=examples(
        "bqc bisect model.onnx --scheme bbct",
        "bqc bisect model.onnx -p import-canonicalize,annotate-anatomy -o found/",
        "bqc bisect model.onnx --scheme bbct --check 'bqc verify {} --against model.onnx --cosine-min 0.99'",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL")
@pipeline_options
@click.option(
    "--check",
    metavar="CMD",
    help="Command that gets the path of a model for {} or at its end, and ends with 0 if that is good. "
    "[default: outputs as MODEL's, within what the passes promise]",
)
@timeout_option
@click.option(
    "-o", "--output", type=FILE, metavar="DIR", help="Keep the models before and after the rewrite."
)
@common_options
def command(settings: Settings, model: Path, output: Path | None, **options: Any) -> int:
    """Find the first pass, and in it the first rewrite, after which a check fails.

    A check is good with exit status 0 and bad with any other, as for 'bqc reduce'. Exit status: 0 if the model is good
    after the whole pipeline, 1 if a rewrite is found, 2 if the check fails on MODEL itself.
    """
    passes = chosen_pipeline(options)
    if passes is None:
        raise click.UsageError("give --passes or --scheme")
    from bqc.bisect import bisect
    from bqc.pipeline import spell

    with progress_bar(settings, f"bisecting {model.name}") as progress:
        found = bisect(model, passes, command_check(options), output=output, progress=progress)
    if settings.json:
        emit_json(SCHEMA_VERSION, {"pipeline": spell(passes), **found.to_dict()})
    elif found.culprit is None:
        say(settings, f"good after all {found.rewrites} rewrites of the pipeline")
    else:
        say(settings, str(found.culprit))
        if found.culprit.rewrite is not None:
            again = f"bqc opt {shlex.quote(str(model))} -p {shlex.quote(spell(passes))} --rewrite-limit"
            say(settings, f"bad from: {again} {found.culprit.rewrite.index}")
        for path in found.paths:
            say(settings, str(path))
    return 0 if found.culprit is None else 1

"""``bqc diff``: two models compared as computations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bqc.cli.common import (
    FILE,
    Settings,
    Shape,
    check_mark,
    common_options,
    emit_json,
    examples,
    say,
    seed_option,
    table,
    threads_option,
)

if TYPE_CHECKING:
    from bqc.diff import DiffReport

__all__ = ["command"]

_NODES = ("layers", "role", "change", "A", "B", "by", "details")
_WEIGHTS = ("layers", "role", "weight", ">bytes A", ">bytes B", "what happened")
_TENSORS = ("layer", "role", "value of A", ">relative error", ">largest", ">cosine")


@click.command(
    "diff",
    epilog=examples(
        "bqc diff model.onnx model.bqc.onnx --random",
        "bqc diff dynamo.onnx torchscript.onnx --canonical",
        "bqc diff before.onnx after.onnx --html diff.html",
    ),
)
@click.argument("a", type=FILE, metavar="A")
@click.argument("b", type=FILE, metavar="B")
@click.option("--canonical", is_flag=True, help="Import both first, so that exporters' habits do not count.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Largest difference of weights that is none. [default: 0; 1e-6 with --canonical]",
)
@click.option("--random", "made_up", is_flag=True, help="Also run both on random inputs: where do they part?")
@click.option(
    "--inputs", type=FILE, metavar="FILE.npz", help="The same, on these inputs: one array an input."
)
@click.option("--samples", type=click.IntRange(min=1), default=8, show_default=True, help="Random rows.")
@click.option(
    "--shape", type=Shape(), metavar="BxS", help="Batch and tokens of a random run. [default: 8x64]"
)
@seed_option
@click.option("--html", type=FILE, metavar="FILE", help="Write the report as one HTML file.")
@threads_option
@common_options
def command(
    settings: Settings,
    a: Path,
    b: Path,
    canonical: bool,
    tolerance: float | None,
    made_up: bool,
    inputs: Path | None,
    samples: int,
    shape: tuple[int, int] | None,
    seed: int,
    html: Path | None,
    threads: int | None,
) -> int:
    """Tell what differs between two models: inputs, nodes, weights, cost, and where their numbers part.

    Names of nodes and values and the order of nodes do not count. Exit status 0 if the models are the same, 1 if
    they differ.
    """
    from bqc.diff import InputChoice, diff
    from bqc.diff.report import SCHEMA_VERSION

    if made_up and inputs is not None:
        raise click.UsageError("--random and --inputs are two ways to say the same: give one")
    run = InputChoice(inputs, samples, shape, seed) if made_up or inputs is not None else None
    report = diff(a, b, canonical=canonical, tolerance=tolerance, run=run, threads=threads)
    if html is not None:
        from bqc.diff.page import write_page

        write_page(report, html)
    if settings.json:
        emit_json(SCHEMA_VERSION, report.to_dict())
    elif not settings.quiet:
        _show(settings, report)
        if html is not None:
            say(settings, f"wrote {html}")
    return 0 if report.same else 1


def _show(settings: Settings, report: DiffReport) -> None:
    from bqc.diff import summary

    every = settings.verbose > 0
    for name, side in (("A", report.a), ("B", report.b)):
        imported = ", imported" if side.canonical else ""
        say(settings, f"{name}: {side.path} ({side.kind}{imported}, {side.nodes} nodes)")
    for note in report.notes:
        say(settings, f"note: {note}")
    if report.signature:
        changes = [(change.kind, change.what, change.a, change.b) for change in report.signature]
        table("inputs, outputs, opsets, functions", ("change", "of", "A", "B"), changes)
    if report.nodes:
        table("nodes", _NODES, summary.node_rows(report.nodes, every=every))
    if report.weights:
        table("weights", _WEIGHTS, summary.weight_rows(report.weights, every=every))
    if not report.same:
        table("cost", ("", ">A", ">B", ">B / A"), summary.cost_rows(report))
    if report.drift is not None:
        which = "every aligned tensor" if every else "the worst of each layer"
        title = f"tensors, {which}: {report.drift.inputs}"
        table(title, _TENSORS, summary.drift_rows(report.drift, every=every))
        for line in summary.drift_sentences(report.drift):
            say(settings, line)
    say(
        settings,
        f"{check_mark(report.same)} {summary.verdict(report)}; {report.weights_same} weights the same",
    )

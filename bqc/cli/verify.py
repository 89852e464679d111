"""``bqc verify``: a compiled model against its original."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bqc.cli.common import (
    FILE,
    Names,
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
    from bqc.verify import VerifyReport

__all__ = ["command"]

SCHEMA_VERSION = 1

_WORST = 12
"""Tensors shown."""


@click.command(
    "verify",
    epilog=examples(
        "bqc verify model.bqc.onnx --against model.onnx",
        "bqc verify model.bqc.onnx --against model.onnx --samples 64 --shape 4x128 --bits",
        "bqc verify model.bqc.onnx --against model.onnx --all-tensors",
        "bqc verify model.bqc.onnx --against model.onnx --ort-levels none,basic,extended,all --isa all",
    ),
)
@click.argument("model", type=FILE, metavar="MODEL")
@click.option("--against", type=FILE, required=True, metavar="FILE", help="The original model.")
@click.option("--inputs", type=FILE, metavar="FILE.npz", help="Inputs to run on: one array an input.")
@click.option(
    "--samples", type=click.IntRange(min=1), metavar="N", help="Run on N rows of random ids. [default: 32]"
)
@click.option(
    "--shape", type=Shape(), metavar="BxS", help="Batch and tokens of a random run. [default: 8x64]"
)
@seed_option
@click.option("--bits", is_flag=True, help="Also require the same bits with and without the kernel library.")
@click.option(
    "--all-tensors", is_flag=True, help="Also compare every tensor inside that both models have, worst first."
)
@click.option(
    "--ort-levels",
    type=Names("none", "basic", "extended", "all"),
    default=(),
    metavar="LEVELS",
    help="Also require the same bits at these optimisation levels of ONNX Runtime: none,basic,extended,all.",
)
@click.option(
    "--isa",
    type=Names(),
    default=(),
    metavar="LEVELS",
    help="Also require the same bits from these kernels: portable,avx2,avx512,avx512_vbmi, or all that run here.",
)
@click.option(
    "--cosine-min", type=float, metavar="X", help="Lowest cosine of any row. [default: the model's own]"
)
@click.option(
    "--argmax-agreement-min",
    type=float,
    metavar="X",
    help="Fraction of rows with the same class. [default: the model's own]",
)
@click.option("--max-abs", type=float, metavar="X", help="Largest absolute error. [default: the model's own]")
@threads_option
@common_options
def command(
    settings: Settings,
    model: Path,
    against: Path,
    inputs: Path | None,
    samples: int | None,
    shape: tuple[int, int] | None,
    seed: int,
    bits: bool,
    all_tensors: bool,
    ort_levels: tuple[str, ...],
    isa: tuple[str, ...],
    cosine_min: float | None,
    argmax_agreement_min: float | None,
    max_abs: float | None,
    threads: int | None,
) -> int:
    """Compare a compiled model's outputs with its original's.

    Both run on a file of inputs, on a few built-in texts (if a tokenizer lies beside a model), or on random
    ids. Errors are held against the bounds stored in the compiled file. Exit status 1 if one is broken.
    """
    from bqc.verify import Bounds, verify

    report = verify(
        model,
        against,
        inputs=inputs,
        samples=samples,
        shape=shape,
        seed=seed,
        bounds=Bounds(cosine_min, argmax_agreement_min, max_abs),
        bits=bits,
        threads=threads,
        all_tensors=all_tensors,
        ort_levels=ort_levels,
        isa=isa,
    )
    if settings.json:
        emit_json(SCHEMA_VERSION, report.to_dict())
    elif not settings.quiet:
        integers = any(output.equal is not None for output in report.outputs)
        rows = [
            (
                output.name,
                output.rows,
                f"{output.max_abs:.3g}",
                f"{output.mean_abs:.3g}",
                _number(output.cosine_min, 6),
                _number(output.argmax_agreement, 4),
                *([_number(output.equal, 4)] if integers else []),
            )
            for output in report.outputs
        ]
        columns = ["output", ">rows", ">max error", ">mean error", ">min cosine", ">argmax agreement"]
        columns += [">equal"] if integers else []
        table(f"{report.compiled} against {report.against}: {report.inputs}", columns, rows)
        if all_tensors:
            _show_tensors(settings, report)
        for check in report.checks:
            say(settings, f"{check_mark(check.ok)} {check.text}")
        if report.bounds == Bounds():
            say(settings, "no bounds: the model stores none and none were given")
    return 0 if report.ok else 1


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _show_tensors(settings: Settings, report: VerifyReport) -> None:
    """Tensors inside by role, then the worst of them; all with ``-v``."""
    from bqc.diff.summary import role_rows, tensor_row

    by_role = ("role", ">tensors", ">mean relative error", ">largest", "where")
    table("tensors inside, by role", by_role, role_rows(report.tensors))
    shown = report.tensors if settings.verbose else report.tensors[:_WORST]
    title = f"the worst {len(shown)} of {len(report.tensors)}"
    columns = ("layer", "role", "value", ">relative error", ">largest", ">cosine")
    table(title, columns, [tensor_row(t) for t in shown])

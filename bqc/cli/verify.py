"""``bqc verify``: a compiled model against its original."""

from __future__ import annotations

from pathlib import Path

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

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "verify",
    epilog=examples(
        "bqc verify model.bqc.onnx --against model.onnx",
        "bqc verify model.bqc.onnx --against model.onnx --samples 64 --shape 4x128 --bits",
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
    )
    if settings.json:
        emit_json(SCHEMA_VERSION, report.to_dict())
    elif not settings.quiet:
        rows = [
            (
                output.name,
                output.rows,
                f"{output.max_abs:.3g}",
                f"{output.mean_abs:.3g}",
                f"{output.cosine_min:.6f}",
                "-" if output.argmax_agreement is None else f"{output.argmax_agreement:.4f}",
            )
            for output in report.outputs
        ]
        columns = ("output", ">rows", ">max error", ">mean error", ">min cosine", ">argmax agreement")
        table(f"{report.compiled} against {report.against}: {report.inputs}", columns, rows)
        for check in report.checks:
            say(settings, f"{check_mark(check.ok)} {check.text}")
        if not report.checks:
            say(settings, "no bounds: the model stores none and none were given")
    return 0 if report.ok else 1

"""`optimize`: run passes over a file, without a scheme's checks; what `bqc opt` does."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from bqc.artifact import require_own_files, write
from bqc.errors import BqcError
from bqc.ir.load import load, read_text
from bqc.ir.text import SEPARATOR, SUFFIX, Tensors, attach_weights, from_text, require_weights, split, to_text
from bqc.passes import pass_class, pass_name
from bqc.passes.attach_functions import AttachFunctions
from bqc.pipeline import Instrument, Step, run, watching
from bqc.schemes import scheme_class
from bqc.staging import write_text

__all__ = ["STDOUT", "optimize", "optimize_split", "scheme_pipeline", "until", "write_model"]

STDOUT = Path("-")
"""The output that is text on standard output."""

Pass = ir.passes.InPlacePass


def optimize(
    model: str | Path | ir.Model,
    passes: Sequence[Pass],
    output: Path | None = None,
    *,
    instruments: Sequence[Instrument] = (),
    rewrite_limit: int | None = None,
    weights: str | Path | None = None,
    tensors: Tensors = "elide",
) -> list[Step]:
    """Load a model, run the passes, and write it if ``output`` is given.

    With a ``rewrite_limit`` only the first so many rewrites of the pipeline are done. ``weights`` is a model that has
    the tensors which a text left out. The output is text for `STDOUT` and for names that end in ``.onnxtxt``;
    ``tensors`` says what it does with large ones.

    Raises BqcError if the model cannot be read or written, or a pass cannot work on it.
    """
    loaded = model if isinstance(model, ir.Model) else load(model)
    if weights is not None:
        attach_weights(loaded, load(weights))
    if output is not None and output != STDOUT:
        require_own_files(Path(output), None if isinstance(model, ir.Model) else Path(model), loaded)
    with watching(instruments, limit=rewrite_limit):
        steps = run(loaded, passes)
    if output is not None:
        write_model(loaded, Path(output), tensors=tensors)
    return steps


def optimize_split(
    model: str | Path,
    passes: Sequence[Pass],
    *,
    instruments: Sequence[Instrument] = (),
    rewrite_limit: int | None = None,
    tensors: Tensors = "elide",
) -> None:
    """Run the passes over each of the models in a text, and print them with the same lines between them.

    Of a model that fails, the error stands in its place; the others are still done.

    Raises BqcError if any failed.
    """
    pieces = split(read_text(Path(model)))
    failed = 0
    for i, piece in enumerate(pieces):
        if i:
            print(SEPARATOR)
        try:
            optimize(
                from_text(piece, str(model)),
                passes,
                STDOUT,
                instruments=instruments,
                rewrite_limit=rewrite_limit,
                tensors=tensors,
            )
        except BqcError as error:
            failed += 1
            print(f"// error: {error}")
    if failed:
        raise BqcError(f"{model}: {failed} of {len(pieces)} models failed")


def write_model(model: ir.Model, output: Path, *, tensors: Tensors = "elide") -> None:
    """Write a model of any dialect: text for `STDOUT` and for names that end in ``.onnxtxt``, else binary.

    Raises BqcError if it cannot be written.
    """
    if output == STDOUT:
        sys.stdout.write(to_text(model, tensors=tensors))
    elif output.suffix == SUFFIX:
        try:
            write_text(output, to_text(model, tensors=tensors))
        except OSError as error:
            raise BqcError(f"{output}: cannot be written: {error.strerror or error}") from None
    else:
        require_weights(model)
        # Half-lowered models run too: the definitions of whatever operators are in them go along.
        AttachFunctions()(model)
        write(model, output)


def scheme_pipeline(scheme: str) -> list[Pass]:
    """Every pass that compiling with a scheme's default options runs."""
    chosen = scheme_class(scheme)()
    importing = [pass_class("import-canonicalize")(), pass_class("annotate-anatomy")()]
    return [*importing, *chosen.plan(), *chosen.lower()]


def until(passes: Sequence[Pass], last: str) -> list[Pass]:
    """The pipeline up to and including the first pass of that name."""
    names = [pass_name(one) for one in passes]
    if last not in names:
        near = difflib.get_close_matches(last, names, n=1)
        raise BqcError(f"the pipeline has no pass {last!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return list(passes[: names.index(last) + 1])

"""`optimize`: run passes over a file, without a scheme's checks; what `bqc opt` does."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from bqc.artifact import write
from bqc.errors import BqcError
from bqc.ir.load import load
from bqc.passes import pass_class, pass_name
from bqc.passes.attach_functions import AttachFunctions
from bqc.pipeline import Instrument, Step, run, watching
from bqc.schemes import scheme_class

__all__ = ["optimize", "scheme_pipeline", "until"]

Pass = ir.passes.InPlacePass


def optimize(
    model: str | Path,
    passes: Sequence[Pass],
    output: Path | None = None,
    *,
    instruments: Sequence[Instrument] = (),
    rewrite_limit: int | None = None,
) -> list[Step]:
    """Load a model, run the passes, and write it if ``output`` is given.

    With a ``rewrite_limit`` only the first so many rewrites of the pipeline are done.

    Raises BqcError if the model cannot be read or written, or a pass cannot work on it.
    """
    loaded = load(model)
    with watching(instruments, limit=rewrite_limit):
        steps = run(loaded, passes)
    if output is not None:
        # Half-lowered models run too: the definitions of whatever operators are in them go along.
        AttachFunctions()(loaded)
        if Path(output).resolve() == Path(model).resolve():
            raise BqcError(f"{output}: the output would overwrite the input; give another -o")
        write(loaded, Path(output))
    return steps


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

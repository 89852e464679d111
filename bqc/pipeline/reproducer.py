"""A folder that shows a pass going wrong: the model before it, inputs, and the command to type."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bqc.artifact import write
from bqc.passes import pass_name
from bqc.pipeline.spelling import spell
from bqc.pipeline.trial import completed
from bqc.runtime.feeds import Feeds
from bqc.staging import write_text

__all__ = ["write_reproducer"]


def write_reproducer(
    folder: Path | None, one: ir.passes.InPlacePass, model: ir.Model, feeds: Feeds, problem: str
) -> Path:
    """Write ``model.onnx``, ``inputs.npz``, ``pipeline.txt`` and ``README.md``; return the folder.

    Args:
        folder: `bqc-repro-PASS` in the working folder if None, with a number where that is taken.
        one: the pass.
        model: before the pass.
        feeds: inputs to run it on.
        problem: what went wrong, in words.

    Raises BqcError or OSError if it cannot be written.
    """
    name, pipeline = pass_name(one), spell([one])
    place = folder or _free(Path(f"bqc-repro-{name}"))
    place.mkdir(parents=True, exist_ok=True)
    write(completed(model), place / "model.onnx")
    np.savez(place / "inputs.npz", **feeds)  # type: ignore[arg-type]
    command = f"bqc opt model.onnx -p {shlex.quote(pipeline)} --verify-each --verify-inputs inputs.npz"
    write_text(place / "pipeline.txt", f"{pipeline}\n")
    write_text(
        place / "README.md",
        f"# {name}\n\n{problem}\n\nIn this folder, `model.onnx` being the model before the pass:\n\n    {command}\n",
    )
    return place


def _free(place: Path) -> Path:
    taken, n = place, 1
    while taken.exists():
        n += 1
        taken = place.with_name(f"{place.name}-{n}")
    return taken

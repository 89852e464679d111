"""What the inputs of a model take, where the model does not say it itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime

from bqc.errors import BqcError
from bqc.ir.inputs import InputSpecs, input_specs
from bqc.runtime.inputs import EncoderInputs, stored
from bqc.runtime.tables import Tables

__all__ = ["specs_inside", "specs_of"]


def specs_of(sessions: Sequence[onnxruntime.InferenceSession], original: str | Path) -> InputSpecs:
    """What the inputs take that all of these models have: as the first says that bqc made, else by the original's file.

    The last session is the original's.

    Raises:
        BqcError: metadata is damaged, or the original is not a model.
    """
    return specs_inside(sessions) or _by_file(sessions[-1], original)


def specs_inside(sessions: Sequence[onnxruntime.InferenceSession]) -> InputSpecs | None:
    """What the first of the models says that bqc made, if one is. Raises BqcError if its metadata is damaged."""
    return next((one for session in sessions if (one := stored(session)).inputs), None)


def _by_file(session: onnxruntime.InferenceSession, path: str | Path) -> InputSpecs:
    """By the names of the inputs and the lookups in the graph, else by importing it."""
    tables = Tables(path)
    try:
        inputs = EncoderInputs.of(session)
        if inputs.token_ids in tables.rows:
            specs = {name: replace(one, rows=tables.rows.get(name, 0)) for name, one in inputs.specs.items()}
            return InputSpecs(specs, tables.positions or 0)
    except BqcError:
        pass  # names do not tell
    return _imported(path)


def _imported(path: str | Path) -> InputSpecs:
    from bqc.ir import import_model  # it loads the passes, which few models need here

    try:
        return input_specs(import_model(path)[0])
    except BqcError:
        return InputSpecs()  # the caller says what is missing

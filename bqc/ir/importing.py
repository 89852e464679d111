"""From a file or a loaded model to the annotated canonical form."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.anatomy import Encoder, encoder
from bqc.ir.build import dims
from bqc.ir.explain import Explanation, Miss, explanation
from bqc.ir.load import is_compiled, load
from bqc.ir.notes import notes
from bqc.ir.text import require_weights

__all__ = ["ImportSummary", "import_model"]


@dataclass(frozen=True)
class ImportSummary:
    """What importing found."""

    encoder: Encoder
    misses: tuple[Miss, ...]
    source_opset: int
    nodes_before: int
    nodes_after: int
    seconds: float
    notes: tuple[str, ...] = ()
    """What was mended or left as it was."""

    def __str__(self) -> str:
        return f"{self.encoder} (opset {self.source_opset}, {self.nodes_before} -> {self.nodes_after} nodes)"


def import_model(
    model: str | os.PathLike[str] | ir.Model, *, explain: Explanation | None = None
) -> tuple[ir.Model, ImportSummary]:
    """Read, canonicalise and annotate an encoder; a model object is changed in place.

    `explain`, when given, receives every miss, also when this raises.

    Raises:
        BqcError: unreadable file, already compiled, or no (whole) encoder in it.
    """
    from bqc.passes.annotate_anatomy import AnnotateAnatomy
    from bqc.passes.import_canonicalize import ImportCanonicalize
    from bqc.pipeline import run

    started = time.perf_counter()
    loaded = model if isinstance(model, ir.Model) else load(model)
    if is_compiled(loaded):
        raise BqcError("the model is already compiled by bqc; give the float model it was made from")
    require_weights(loaded)
    _require_inputs(loaded)
    if explain is not None:
        explain.misses.extend(explanation(loaded).misses)
        loaded.meta["bqc.explanation"] = explain
    before, opset = len(loaded.graph), loaded.graph.opset_imports.get("", 0)
    run(loaded, [ImportCanonicalize(), AnnotateAnatomy()])
    found = encoder(loaded)
    misses = tuple(explanation(loaded).misses)
    seconds = time.perf_counter() - started
    return loaded, ImportSummary(found, misses, opset, before, len(loaded.graph), seconds, notes(loaded))


def _require_inputs(model: ir.Model) -> None:
    for value in model.graph.inputs:
        if value.dtype == ir.DataType.STRING:
            raise BqcError(f"input {value.name!r} holds text; bqc compiles the encoder behind the tokenizer")
        shape = dims(value)
        if shape is not None and 0 in shape:
            raise BqcError(
                f"input {value.name!r} has the shape {shape}: no token fits; export it with other sizes"
            )

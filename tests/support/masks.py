"""Encoders whose mask has another form."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer
from bqc.ir.synthetic import canonical_bert

__all__ = ["KINDS", "with_mask"]

KINDS = {
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "bool": ir.DataType.BOOL,
    "float": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "uint8": ir.DataType.UINT8,
}
SHAPES = {2: ["batch", "sequence"], 3: ["batch", 1, "sequence"], 4: ["batch", 1, 1, "sequence"]}


def with_mask(
    rank: int,
    kind: str,
    additive: bool,
    shape: list[int | str] | None = None,
    name: str = "attention_mask",
) -> ir.Model:
    """The canonical encoder with another mask input in place of its own."""
    model = canonical_bert()
    graph = model.graph
    mask = next(v for v in graph.inputs if v.name == "attention_mask")
    graph.inputs.remove(mask)
    dtype = KINDS[kind]
    new = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape or SHAPES[rank]))
    graph.inputs.append(new)
    cast, unsqueeze, _, last = nodes_of(model, role="attention.mask")
    w = Writer(graph)
    cast.replace_input_with(0, new)
    missing = w.const("missing_axes", np.arange(1, 5 - rank, dtype=np.int64))
    if additive:
        wide = new if dtype == ir.DataType.FLOAT else w.op("Cast", new, to=int(ir.DataType.FLOAT))
        value = w.op("Unsqueeze", wide, missing) if rank < 4 else wide
        last.outputs[0].replace_all_uses_with(value)
    else:
        value = w.op("Unsqueeze", cast.outputs[0], missing) if rank < 4 else cast.outputs[0]
        unsqueeze.outputs[0].replace_all_uses_with(value)
    graph.insert_after(cast, w.nodes)
    return model

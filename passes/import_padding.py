"""Masks made of ids that are no padding are read once as a key-padding mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.anatomy import role
from bqc.ir.build import Writer, dims
from bqc.ir.counting import may_rewrite
from bqc.ir.match import scalar
from bqc.ir.padding import mark_padding
from bqc.ir.rewrite import sources, take_place

__all__ = ["ImportPadding"]

_BOOL = ir.DataType.BOOL
_I64 = ir.DataType.INT64


@dataclass(frozen=True)
class ImportPadding(ir.passes.InPlacePass):
    """Put a plain mask `[B, S]` between a comparison of ids with the padding id and what reads it.

    Before: `Where(Unsqueeze(Equal(input_ids, 0)), -10000, 0)`
    After: `m[B, S] = Cast(Not(Equal(input_ids, 0)))`, `Where(Unsqueeze(Not(Cast(m))), -10000, 0)`

    1. `Equal(ids, pad)`.
    2. `Greater(ids, 0)` and `Cast(ids; to=BOOL)`: the padding id is 0.

    `import-attention` then finds `m`. Positions that count tokens compare ids too; they are recognised before.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, modified = model.graph, False
        made = set[ir.Node]()
        for ids in graph.inputs:
            if ids.shape is None or len(ids.shape) != 2 or ids.dtype not in (_I64, ir.DataType.INT32):
                continue
            if not any(_looks_up_words(ids, use) for use in ids.consumers()):
                continue
            for node in ids.consumers():
                pad = None if role(node) or node in made else _compared(node, ids)
                if pad is None or not may_rewrite(node):
                    continue
                w = _write(graph, node, ids, pad)
                made.update(w.nodes)
                modified = True
        return ir.passes.PassResult(model, modified)


def _looks_up_words(ids: ir.Value, node: ir.Node) -> bool:
    return node.op_type == "Gather" and node.inputs[1] is ids and role(node) == "embedding.word"


def _compared(node: ir.Node, ids: ir.Value) -> int | None:
    """The padding id that the node tells from others."""
    if node.op_type == "Cast":
        return 0 if node.attributes["to"].as_int() == _BOOL else None
    if node.op_type not in ("Equal", "Greater"):
        return None
    other = scalar(next((v for v in node.inputs if v is not ids), None))
    if node.op_type == "Greater" and (other != 0 or node.inputs[0] is not ids):
        return None
    return None if other is None else int(other)


def _write(graph: ir.Graph, node: ir.Node, ids: ir.Value, pad: int) -> Writer:
    shape = dims(ids)
    dtype = (ids.dtype or _I64).numpy()
    w = Writer(graph, source=sources([node]))
    padding = w.op("Equal", ids, w.const("padding_id", np.array(pad, dtype)), shape=shape, dtype=_BOOL)
    kept = w.op("Not", padding, shape=shape, dtype=_BOOL)
    mask = mark_padding(w.op("Cast", kept, shape=shape, dtype=_I64, to=int(_I64)))
    back = w.op("Cast", mask, shape=shape, dtype=_BOOL, to=int(_BOOL))
    if node.op_type == "Equal":
        back = w.op("Not", back, shape=shape, dtype=_BOOL)
    graph.insert_before(node, w.nodes)
    take_place(node.outputs[0], back)
    graph.remove(node)
    return w

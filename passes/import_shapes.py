"""Sizes of hidden states are read from the token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, TABLE_ROLES, role
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.probe import Sizes, shape_of
from bqc.ir.rewrite import drop_dead, sources, take_place

__all__ = ["ImportShapes"]

_SIZES = (Sizes(2, 3), Sizes(5, 7))


@dataclass(frozen=True)
class ImportShapes(ir.passes.InPlacePass):
    """What follows the encoder, and biases, depend on a hidden state only where they use its values.

    Before: `Shape(h)` for a hidden state `h[B, S, H]`
    After: `Concat(Shape(input_ids), [H])`, or `Shape(input_ids; start, end)` where that is all that is read

    The token ids are those that `import-embedding` found.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        words = next((n for n in graph if n.op_type == "Gather" and role(n) == TABLE_ROLES[0]), None)
        ids = None if words is None else words.inputs[1]
        count = 0
        for node in [n for n in graph if n.op_type == "Shape"] if ids is not None else []:
            width = _width(graph, node.inputs[0])
            if width is None or ids is None or node.outputs[0].is_graph_output():
                continue
            if not may_rewrite(node):
                continue
            _rewrite(graph, node, ids, width)
            count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _width(graph: ir.Graph, value: ir.Value | None) -> int | None:
    """`H` of a hidden state `[B, S, H]` that is not an input, else None."""
    if value is None or value.producer() is None:
        return None
    runs = [sizes.within(graph) for sizes in _SIZES]
    shapes = [shape_of(value, sizes) for sizes in runs]
    if any(shape is None or len(shape) != 3 for shape in shapes):
        return None
    first, second = shapes
    assert first is not None
    assert second is not None, "just checked"
    leads = [(s.batch, s.sequence) for s in runs]
    return first[2] if [first[:2], second[:2]] == leads and first[2] == second[2] else None


def _rewrite(graph: ir.Graph, node: ir.Node, ids: ir.Value, width: int) -> None:
    start = node.attributes.get_int("start", 0) % 3
    last = node.attributes.get_int("end", 3)
    end = last % 3 if last < 0 else min(last, 3)
    w = Writer(graph, source=sources([node]))
    w.at(node.metadata_props.get(LAYER_KEY), node.metadata_props.get(ROLE_KEY))
    i64 = ir.DataType.INT64
    if end <= 2:
        made = w.op("Shape", ids, shape=[max(end - start, 0)], dtype=i64, start=start, end=end)
    else:
        lead = w.op("Shape", ids, shape=[2 - start], dtype=i64, start=start) if start < 2 else None
        tail = w.shared(f"width_{width}", np.array([width], np.int64))
        made = tail if lead is None else w.op("Concat", lead, tail, shape=[3 - start], dtype=i64, axis=0)
    graph.insert_before(node, w.nodes)
    if made.producer() is None:
        node.outputs[0].replace_all_uses_with(made)
    else:
        take_place(node.outputs[0], made)

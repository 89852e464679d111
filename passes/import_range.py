"""Counting loops become Range."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.match import constant
from bqc.ir.rewrite import drop_dead, sources, take_place

__all__ = ["ImportRange"]


@dataclass(frozen=True)
class ImportRange(ir.passes.InPlacePass):
    """Read a loop that collects `start, start + delta, ...` as what it counts; tf2onnx writes so before opset 11.

    Before: `_, y = Loop(trips, true, start; body(i, c, x) -> (c, x + delta, x))` for integers
    After: `y = Range(start, start + trips * delta, delta)`
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        for node in [n for n in graph if n.op_type == "Loop"]:
            delta = _delta(node)
            if delta is None or not may_rewrite(node):
                continue
            trips, start, out = node.inputs[0], node.inputs[2], node.outputs[1]
            kind = delta.dtype or ir.DataType.INT64
            w = Writer(graph, source=sources([node]))
            times = w.op("Squeeze", w.op("Cast", trips, dtype=kind, to=int(kind)), shape=[], dtype=kind)
            length = w.op("Mul", times, delta, shape=[], dtype=kind)
            limit = w.op("Add", start, length, shape=[], dtype=kind)
            made = w.op("Range", start, limit, delta, dtype=kind)
            graph.insert_after(node, w.nodes)
            take_place(out, made)
            count += 1
        if count:
            drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _delta(loop: ir.Node) -> ir.Value | None:
    """The constant step of a loop of the form above."""
    body = loop.attributes["body"].as_graph() if "body" in loop.attributes else None
    if body is None or len(loop.inputs) != 3 or (len(body.inputs), len(body.outputs)) != (3, 3):
        return None
    condition, start = constant(loop.inputs[1]), constant(loop.inputs[2])
    last = loop.outputs[0]
    if loop.inputs[0] is None or start is None or start.ndim or start.dtype.kind != "i":
        return None
    if last.uses() or last.is_graph_output():
        return None
    if loop.inputs[1] is not None and (condition is None or not condition.all()):
        return None
    again, following, collected = (_behind(v) for v in body.outputs)
    before = body.inputs[2]
    step = following.producer()
    if again is not body.inputs[1] or collected is not before or step is None or step.op_type != "Add":
        return None
    rest = [v for v in step.inputs if v is not None and v is not before]
    delta = constant(rest[0]) if len(rest) == 1 else None
    fits = delta is not None and not delta.ndim and delta.dtype == start.dtype and delta != 0
    return rest[0] if fits and rest[0].graph is loop.graph else None


def _behind(value: ir.Value) -> ir.Value:
    """What Identity nodes pass on."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value

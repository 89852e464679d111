"""Every MatMul with a constant matrix becomes MatMul + Add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_linear
from bqc.ir.counting import may_rewrite
from bqc.ir.match import as_linear, is_weight, only_consumer, size_of
from bqc.ir.rewrite import drop_dead, sources, take_place

__all__ = ["ImportLinear", "put_linear"]


@dataclass(frozen=True)
class ImportLinear(ir.passes.InPlacePass):
    """One form for linears.

    Before::

        Add(b, MatMul(x, W))                     bias first
        MatMul(x, W)                             no bias

    After::

        Add(MatMul(x, W[K, N]), b[N])            b is zeros where there was none
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        for node in list(graph):
            if node.graph is None:
                continue
            if node.op_type == "MatMul" and is_weight(node.inputs[1], 2) and not is_weight(node.inputs[0]):
                count += _matmul(graph, node)
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _matmul(graph: ir.Graph, node: ir.Node) -> bool:
    x, weight = node.inputs
    assert x is not None
    assert weight is not None, "MatMul has two inputs"
    width, product = size_of(weight, 1), node.outputs[0]
    add = only_consumer(product)
    bias = None
    if add is not None and add.op_type == "Add":
        other = next((v for v in add.inputs if v is not product), None)
        if other is not None and is_weight(other, 1) and size_of(other, 0) == width:
            bias = other
    if bias is not None and add is not None and as_linear(add.outputs[0]) is not None:
        return False
    if not may_rewrite(node):
        return False
    replaced, out = (
        ([node, add], add.outputs[0]) if bias is not None and add is not None else ([node], product)
    )
    w = Writer(graph, source=sources(replaced))
    if bias is None:
        bias = w.const(f"{weight.name}.zero_bias", np.zeros(width, np.float32))
    return put_linear(graph, w, write_linear(w, x, weight, bias), replaced, out)


def put_linear(graph: ir.Graph, w: Writer, made: ir.Value, replaced: list[ir.Node], out: ir.Value) -> bool:
    """Put what `w` wrote in the place of `replaced`, whose result was `out`."""
    if out.shape is not None and made.shape is None:
        made.shape = out.shape
    graph.insert_after(replaced[-1], w.nodes)
    take_place(out, made)
    for node in reversed(replaced):
        graph.remove(node, safe=True)
    return True

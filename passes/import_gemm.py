"""Every Gemm with a constant matrix becomes MatMul + Add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_linear
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import explanation
from bqc.ir.match import is_weight, size_of
from bqc.ir.rewrite import drop_dead, sources
from bqc.passes.import_linear import put_linear
from bqc.passes.import_weights import lazily

__all__ = ["ImportGemm"]


@dataclass(frozen=True)
class ImportGemm(ir.passes.InPlacePass):
    """Write Gemm as the product and the sum that it is; then it may have any number of axes.

    Before: `Gemm(x, W[N, K], b; transB=1)`
    After: `Add(MatMul(x, W[K, N]), b[N])`, b is zeros where there was none
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        turned: dict[ir.Value, ir.Value] = {}
        count = 0
        for node in [n for n in model.graph if n.op_type == "Gemm"]:
            if is_weight(node.inputs[1], 2) and not is_weight(node.inputs[0]):
                count += _gemm(model, node, turned)
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _gemm(model: ir.Model, node: ir.Node, turned: dict[ir.Value, ir.Value]) -> bool:
    graph = model.graph
    x, weight, bias = (*node.inputs, None)[:3]
    assert x is not None
    assert weight is not None, "Gemm has two inputs"
    factors = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    if factors != (1.0, 1.0) or node.attributes.get_int("transA", 0) != 0:
        explanation(model).add("linear", node, f"alpha, beta are {factors} or the input is transposed")
        return False
    stored_turned = bool(node.attributes.get_int("transB", 0))
    width = size_of(weight, 0 if stored_turned else 1)
    if bias is not None and (not is_weight(bias, 1) or size_of(bias, 0) != width):
        explanation(model).add("linear", node, "its bias is not a vector of the output width")
        return False
    if not may_rewrite(node):
        return False
    w = Writer(graph, source=sources([node]))
    if stored_turned:
        weight = _turned(graph, weight, turned)
    if bias is None:
        bias = w.const(f"{weight.name}.zero_bias", np.zeros(width, np.float32))
    return put_linear(graph, w, write_linear(w, x, weight, bias), [node], node.outputs[0])


def _turned(graph: ir.Graph, weight: ir.Value, turned: dict[ir.Value, ir.Value]) -> ir.Value:
    """The weight `[K, N]` of one stored as `[N, K]`, once per weight; it keeps the name where it can."""
    if weight not in turned:
        rows, columns = size_of(weight, 0), size_of(weight, 1)
        made = lazily(weight, weight.dtype or ir.DataType.FLOAT, [columns, rows], lambda a: a.T)
        name = weight.name or "weight"
        if len(weight.uses()) == 1:
            del graph.initializers[name]
        made.name = name if name not in graph.initializers else f"{name}.transposed"
        graph.register_initializer(made)
        turned[weight] = made
    return turned[weight]

"""Global pooling over the last axis becomes ReduceMean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.inference import infer_shapes
from bqc.ir.match import rank
from bqc.ir.rewrite import sources, take_place

__all__ = ["ImportPool"]


@dataclass(frozen=True)
class ImportPool(ir.passes.InPlacePass):
    """Read a hidden state's pooling as the mean of a norm; tf2onnx writes means over the last of three axes so.

    Before: `GlobalAveragePool(x[B, S, H])`
    After: `ReduceMean(x, [2]; keepdims=1)`

    Of other ranks it pools over other axes; ranks that the file does not state are inferred.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        pools = [n for n in graph if n.op_type == "GlobalAveragePool"]
        if any(rank(n.outputs[0]) is None for n in pools):
            infer_shapes(model)
        for node in pools:
            x, out = node.inputs[0], node.outputs[0]
            if x is None or rank(out) != 3 or not may_rewrite(node):
                continue
            w = Writer(graph, source=sources([node]))
            made = w.op("ReduceMean", x, w.shared("pooled_axis", np.array([2], np.int64)), keepdims=1)
            made.type, made.shape = out.type, out.shape
            graph.insert_after(node, w.nodes)
            take_place(out, made)
            graph.remove(node, safe=True)
            count += 1
        return ir.passes.PassResult(model, count > 0)

"""Sum is written with Add."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import sources, take_place

__all__ = ["ImportSums"]


@dataclass(frozen=True)
class ImportSums(ir.passes.InPlacePass):
    """Write Sum, which has any number of operands, as the Adds that all other passes look for.

    Before: `Sum(a, b, c)`
    After: `Add(Add(a, b), c)`
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, modified = model.graph, False
        for node in [n for n in graph if n.op_type == "Sum" and n.domain == ""]:
            first, *rest = (value for value in node.inputs if value is not None)
            if not rest or not may_rewrite(node):
                continue
            out = node.outputs[0]
            w = Writer(graph, source=sources([node]))
            total = first
            for value in rest:
                total = w.op("Add", total, value, dtype=out.dtype or ir.DataType.FLOAT)
            total.shape = out.shape
            graph.insert_before(node, w.nodes)
            take_place(out, total)
            graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)

"""What is left of ONNX Runtime's own operators is named; domains nobody uses are dropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.explain import explanation
from bqc.ir.notes import note

__all__ = ["ImportContrib"]


@dataclass(frozen=True)
class ImportContrib(ir.passes.InPlacePass):
    """Report operators of other domains that no rule replaced, and tidy the opset imports.

    Before: opset imports `"", com.microsoft, ai.onnx.ml, com.microsoft.nchwc ...` of an optimized file
    After: those whose operators are in the graph
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        left = [n for n in ir.traversal.RecursiveGraphIterator(graph) if n.domain not in ("", "ai.onnx")]
        for node in left:
            explanation(model).add("contrib", node, f"{node.domain}.{node.op_type} has no rule here", 0)
        for (domain, op_type), count in sorted(Counter((n.domain, n.op_type) for n in left).items()):
            note(model, f"{count} {domain}.{op_type} left as they are")
        keep = {"", *(n.domain for n in left), *(f.domain for f in model.functions.values())}
        unused = [domain for domain in graph.opset_imports if domain not in keep]
        for domain in unused:
            del graph.opset_imports[domain]
        return ir.passes.PassResult(model, bool(unused))

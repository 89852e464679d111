"""Names, types and opsets of a finished model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from bqc.contract import Contract
from bqc.ir.anatomy import layer, role
from bqc.ir.rewrite import drop_dead
from bqc.ops.registry import DOMAIN
from bqc.passes._graph import infer_types
from bqc.passes.slim_width import IMPORTANCE_KEY

__all__ = ["Finalize"]

RULE_KEY = "pkg.onnxscript.rewriter.rule_name"


@dataclass(frozen=True)
class Finalize(ir.passes.InPlacePass):
    """Drop what is unused, sort, give every node a stable name (``layer/role/operator``) and every value a
    type.

    Importances of heads and neurons, which only `slim-width` reads, are dropped too, and what the rewriter notes of its
    rules. Contract: exact.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        drop_dead(model)
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        common.TopologicalSortPass()(model)
        seen: Counter[str] = Counter()
        for node in model.graph:
            where = f"{layer(node)}/{role(node)}" if role(node) else "graph"
            name = f"{where}/{node.op_type}"
            seen[name] += 1
            for key in (IMPORTANCE_KEY, RULE_KEY):
                node.metadata_props.pop(key, None)
            node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
            if node.domain == DOMAIN:
                infer_types(node)
            for i, output in enumerate(node.outputs):
                if not output.is_graph_output():
                    output.name = node.name if i == 0 else f"{node.name}:{i}"
        common.RemoveUnusedOpsetsPass()(model)
        return ir.passes.PassResult(model, True)

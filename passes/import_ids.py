"""Table lookups are indexed by int64, whatever integers the model takes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.anatomy import EMBEDDING, TABLE_ROLES, role
from bqc.ir.build import Writer, dims
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import sources

__all__ = ["ImportIds"]

_I64 = ir.DataType.INT64


@dataclass(frozen=True)
class ImportIds(ir.passes.InPlacePass):
    """Widen the indices of the embedding's lookups; the model's inputs keep their type.

    Before: `Gather(word_table, input_ids[int32])`
    After: `Gather(word_table, Cast(input_ids[int32]; to=INT64))`
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            name = role(node)
            ids = node.inputs[1] if node.op_type == "Gather" and name in TABLE_ROLES else None
            if ids is None or ids.dtype is None or ids.dtype == _I64 or not may_rewrite(node):
                continue
            w = Writer(model.graph, source=sources([node])).at(EMBEDDING, name)
            node.replace_input_with(1, w.op("Cast", ids, shape=dims(ids), dtype=_I64, to=int(_I64)))
            model.graph.insert_before(node, w.nodes)
            modified = True
        return ir.passes.PassResult(model, modified)

"""Position rows that an exporter looked up ahead of time become a lookup again."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_position_ids
from bqc.ir.match import is_weight, size_of
from bqc.ir.probe import Sizes
from bqc.ir.rewrite import drop_dead, sources
from bqc.passes.import_weights import lazily

__all__ = ["ImportPositions"]


@dataclass(frozen=True)
class ImportPositions(ir.passes.InPlacePass):
    """Undo the folding of the position embedding in a model of one sequence length.

    Before: `Add(Gather(word, input_ids[B, 7]), rows[1, 7, H])`
    After: `Add(Gather(word, input_ids), Gather(rows[7, H], 0 .. 6))`

    The table has as many rows as the sequence has tokens.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        ids = next((v for v in graph.inputs if v.shape is not None and len(v.shape) == 2), None)
        for node in [n for n in graph if n.op_type == "Add"] if ids is not None else []:
            rows = next((v for v in node.inputs if _is_rows(graph, v)), None)
            if rows is None or ids is None or not any(_is_lookup(v) for v in node.inputs):
                continue
            size, width = size_of(rows, 1), size_of(rows, 2)
            table = lazily(
                rows, rows.dtype or ir.DataType.FLOAT, [size, width], lambda a: a.reshape(a.shape[1:])
            )
            table.name = f"{rows.name}.table"
            graph.register_initializer(table)
            w = Writer(graph, source=sources([node]))
            place = w.op("Gather", table, write_position_ids(w, ids), shape=[1, size, width], axis=0)
            graph.insert_before(node, w.at(None, None).nodes)
            node.replace_input_with(list(node.inputs).index(rows), place)
            count += 1
        if count:
            drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _is_rows(graph: ir.Graph, value: ir.Value | None) -> bool:
    """Is it a constant `[1, S, H]` of the one sequence length that the graph takes?"""
    if value is None or not is_weight(value, 3) or size_of(value, 0) != 1:
        return False
    fixed = Sizes(0, 0).within(graph).sequence
    return size_of(value, 1) == fixed


def _is_lookup(value: ir.Value | None) -> bool:
    """Is it a lookup of rows, or a sum of such?"""
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type == "Add":
        return all(_is_lookup(v) for v in node.inputs)
    return node.op_type == "Gather" and is_weight(node.inputs[0], 2)

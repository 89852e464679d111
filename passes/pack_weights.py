"""Quantised weights in the layouts that kernels read in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.formats import BlockShift
from bqc.ir.anatomy import VALUE_KEY, value_key
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import drop_dead, take_place
from bqc.ops.registry import DOMAIN
from bqc.passes._graph import FORMAT_KEY, attributes_of, block_node, constant, weight_part

__all__ = ["PackWeights"]


@dataclass(frozen=True)
class PackWeights(ir.passes.InPlacePass):
    """Pack codes into bytes: tiles for MatMul, rows for lookup tables.

    Before::

        MatMul(x, Transpose(BlockDequantize(codes, exponents)))     Gather(BlockDequantize(codes, exponents),
        ids)

    After::

        MatMul(x, BlockDequantizeTiles(tiles, exponents))           BlockGather(ids, rows, exponents)

    A table that is the weight of a linear too becomes tiles for both, BlockGatherTiles(ids, tiles, exponents).
    Contract: exact.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        multiplied = _multiplied(model)
        for node in list(model.graph):
            if (node.op_type, node.domain) != ("BlockDequantize", DOMAIN):
                continue
            codes, exponents = node.inputs
            if codes is None or exponents is None or not codes.is_initializer():
                continue
            for user, _ in list(node.outputs[0].uses()):
                if user.op_type not in ("Transpose", "Gather") or not may_rewrite(user):
                    continue
                if user.op_type == "Transpose":
                    _tiles(model, node, user)
                else:
                    _lookup(model, node, user, tiled=codes in multiplied)
                count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _multiplied(model: ir.Model) -> set[ir.Value]:
    """Codes of weights [N, K] that some linear reads."""
    return {
        node.inputs[0]
        for node in model.graph
        if (node.op_type, node.domain) == ("BlockDequantize", DOMAIN) and node.inputs[0] is not None
        if any(user.op_type == "Transpose" for user in node.outputs[0].consumers())
    }


def _tiles(model: ir.Model, dequantize: ir.Node, transpose: ir.Node) -> None:
    parts, attributes = _tile_parts(model, dequantize)
    new = block_node("BlockDequantizeTiles", parts, attributes, like=transpose)
    model.graph.insert_before(transpose, new)
    transpose.outputs[0].replace_all_uses_with(new.outputs[0])


def _tile_parts(model: ir.Model, dequantize: ir.Node) -> tuple[list[ir.Value], dict[str, Any]]:
    """Tiles and scales of a weight, and the attributes that go with them."""
    codes, exponents, fmt, geometry = _weight(dequantize)
    rows, columns = codes.shape
    extra = -rows % 16
    spread = np.ascontiguousarray(np.pad(exponents.T, ((0, 0), (0, extra))))
    elements = rows * columns
    source = dequantize.inputs[0]
    assert source is not None, "a weight"
    known = model.graph.initializers.get(f"{source.name}.tiles")
    parts = [
        known or weight_part(model.graph, source, "tiles", fmt.pack_matrix(codes), str(fmt), elements),
        weight_part(model.graph, source, "scales", spread, str(fmt), 0),
    ]
    return parts, {**geometry, "bits": fmt.bits, "rows": rows, "columns": columns, "layout": "n16k4"}


def _row_parts(model: ir.Model, dequantize: ir.Node) -> tuple[list[ir.Value], dict[str, Any]]:
    """Rows and exponents of a table, and the attributes that go with them."""
    codes, _, fmt, geometry = _weight(dequantize)
    source, exponents = dequantize.inputs
    assert source is not None, "a weight"
    assert exponents is not None, "a weight"
    packed = weight_part(model.graph, source, "rows", fmt.pack_rows(codes), str(fmt), codes.size)
    attributes = {"columns": codes.shape[1], "bits": fmt.bits, "block": geometry["block"], "layout": "row"}
    return [packed, exponents], attributes


def _lookup(model: ir.Model, dequantize: ir.Node, gather: ir.Node, *, tiled: bool) -> None:
    parts, attributes = (_tile_parts if tiled else _row_parts)(model, dequantize)
    # No block of a table is cut at groups: its rows are no heads.
    attributes.pop("group", None)
    ids = gather.inputs[1]
    assert ids is not None, "a lookup has ids"
    op_type = "BlockGatherTiles" if tiled else "BlockGather"
    new = block_node(op_type, [ids, *parts], attributes, like=gather)
    new.metadata_props[VALUE_KEY] = value_key(gather)
    model.graph.insert_after(gather, new)
    take_place(gather.outputs[0], new.outputs[0])


def _weight(dequantize: ir.Node) -> tuple[np.ndarray, np.ndarray, BlockShift, dict[str, int]]:
    codes, exponents = (constant(v) for v in dequantize.inputs)
    source = dequantize.inputs[0]
    assert codes is not None, "a quantised weight"
    assert exponents is not None, "a quantised weight"
    assert source is not None, "a quantised weight"
    fmt = BlockShift.parse(source.metadata_props[FORMAT_KEY])
    known = attributes_of(dequantize)
    return codes, exponents, fmt, {"block": known["block"], "group": known["group"]}

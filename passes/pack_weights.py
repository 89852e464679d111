"""Quantised weights in the layouts that kernels read in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.formats.stored import weight_format
from bqc.ir.anatomy import VALUE_KEY, value_key
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import drop_dead, take_place
from bqc.ops.registry import DOMAIN, OPERATORS
from bqc.passes._graph import FORMAT_KEY, block_node, constant, weight_part

__all__ = ["PackWeights"]


@dataclass(frozen=True)
class PackWeights(ir.passes.InPlacePass):
    """Pack codes into bytes: tiles for MatMul, rows for lookup tables.

    Before::

        MatMul(x, Transpose(BlockDequantize(codes, exponents)))     Gather(BlockDequantize(codes, exponents),
        ids)

    After::

        MatMul(x, BlockDequantizeTiles(tiles, exponents))           BlockGather(ids, rows, exponents)

    and so for other families of weights: SignDequantizeTiles, SparseDequantizeTiles, XnorDequantizeTiles,
    HalfDequantizeTiles, IndexDequantizeTiles; SignGather and so on.

    A table that is the weight of a linear too becomes tiles for both, BlockGatherTiles(ids, tiles, exponents), where
    its family can look up in tiles.
    Contract: exact.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        packer = _Packer(model)
        for node in list(model.graph):
            if not _dequantizes(node) or node.inputs[0] is None or not node.inputs[0].is_initializer():
                continue
            for user, _ in list(node.outputs[0].uses()):
                if user.op_type not in ("Transpose", "Gather") or not may_rewrite(user):
                    continue
                if user.op_type == "Transpose":
                    packer.matrix(node, user)
                else:
                    packer.lookup(node, user)
                count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


class _Packer:
    """Packs each weight once, however many nodes read it."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.multiplied = {
            node.inputs[0]
            for node in model.graph
            if _dequantizes(node) and any(u.op_type == "Transpose" for u in node.outputs[0].consumers())
        }
        self.packed: dict[tuple[ir.Value, bool], tuple[list[ir.Value], dict[str, Any]]] = {}

    def matrix(self, dequantize: ir.Node, transpose: ir.Node) -> None:
        """The weight of a linear in tiles."""
        parts, attributes = self._parts(dequantize, tiled=True)
        new = block_node(f"{dequantize.op_type}Tiles", parts, attributes, like=transpose)
        self.graph.insert_before(transpose, new)
        transpose.outputs[0].replace_all_uses_with(new.outputs[0])

    def lookup(self, dequantize: ir.Node, gather: ir.Node) -> None:
        """A table in rows, or in tiles where it is the weight of a linear too."""
        lookup = dequantize.op_type.replace("Dequantize", "Gather")
        tiled = dequantize.inputs[0] in self.multiplied and f"{lookup}Tiles" in OPERATORS
        parts, attributes = self._parts(dequantize, tiled=tiled)
        # No block of a table is cut at groups: its rows are no heads.
        attributes.pop("group", None)
        ids = gather.inputs[1]
        assert ids is not None, "a lookup has ids"
        new = block_node(f"{lookup}Tiles" if tiled else lookup, [ids, *parts], attributes, like=gather)
        new.metadata_props[VALUE_KEY] = value_key(gather)
        self.graph.insert_after(gather, new)
        take_place(gather.outputs[0], new.outputs[0])

    def _parts(self, dequantize: ir.Node, *, tiled: bool) -> tuple[list[ir.Value], dict[str, Any]]:
        """Packed parts of a weight as initializers, and the attributes that go with them."""
        source = dequantize.inputs[0]
        assert source is not None, "a quantised weight"
        if (source, tiled) not in self.packed:
            fmt = weight_format(source.metadata_props[FORMAT_KEY])
            names = OPERATORS[dequantize.op_type].inputs
            known = {name: value for name, value in zip(names, dequantize.inputs, strict=True) if value}
            plain = {name: np.asarray(constant(value)) for name, value in known.items()}
            packed, attributes = fmt.tiles(plain) if tiled else fmt.table(plain)
            rows, columns = plain[names[0]].shape[-2:]
            made = [
                known[part]
                if array is plain.get(part)
                else weight_part(self.graph, source, part, array, str(fmt), 0 if at else rows * columns)
                for at, (part, array) in enumerate(packed.items())
            ]
            self.packed[source, tiled] = made, attributes
        parts, attributes = self.packed[source, tiled]
        return parts, dict(attributes)


def _dequantizes(node: ir.Node) -> bool:
    """Whether a node is the ``<family>Dequantize`` of a family of weights."""
    return (
        node.domain == DOMAIN and node.op_type.endswith("Dequantize") and f"{node.op_type}Tiles" in OPERATORS
    )

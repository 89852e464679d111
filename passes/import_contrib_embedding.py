"""EmbedLayerNormalization of ONNX Runtime becomes lookups, sums and a LayerNormalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, dims, write_norm, write_position_ids
from bqc.ir.match import is_weight, size_of
from bqc.passes._contrib import apply, fed, refuse_unless

__all__ = ["ImportContribEmbedding"]

_I32 = ir.DataType.INT32


@dataclass(frozen=True)
class ImportContribEmbedding(ir.passes.InPlacePass):
    """Look words, types and positions up one by one.

    Before: `h, n, sum = com.microsoft.EmbedLayerNormalization(ids, types?, word, position, type?, gamma, beta, mask?)`
    After: `h = LayerNormalization(Add(Add(word, type), position))`, `n = ReduceSum(mask, [1])` (int32)

    Without position ids, positions are 0 .. S-1.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, "contrib-embedding", {"EmbedLayerNormalization": _embed})


def _embed(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    ids, types, word, place, kind, gamma, beta, mask, positions = (fed(node, i) for i in range(9))
    assert ids is not None
    assert gamma is not None
    assert beta is not None, "these are not optional"
    refuse_unless(is_weight(word, 2) and is_weight(place, 2), "its tables are no constants")
    refuse_unless(types is None or is_weight(kind, 2), "its type table is no constant")
    wide = [*(dims(ids) or [None, None]), size_of(word, 1)]
    total = w.op("Gather", word, ids, shape=wide, axis=0)
    if types is not None:
        total = w.op("Add", total, w.op("Gather", kind, types, shape=wide, axis=0), shape=wide)
    if positions is None:
        positions = write_position_ids(w, ids)
        w.at(None, None)
    placed = w.op("Gather", place, positions, shape=[*(dims(positions) or [None, None]), wide[2]], axis=0)
    total = w.op("Add", total, placed, shape=wide)
    norm = write_norm(w, total, gamma, beta, node.attributes.get_float("epsilon", 1e-12) or 0.0)
    return [norm, _lengths(w, ids, mask), total]


def _lengths(w: Writer, ids: ir.Value, mask: ir.Value | None) -> ir.Value:
    """How many ones each row of the mask has: the 1-D mask of the attentions that follow."""
    batch = (dims(ids) or [None])[0]
    axis = w.shared("mask_row", np.array([1], np.int64))
    if mask is None:
        size = w.op("Shape", ids, shape=[1], dtype=ir.DataType.INT64, start=0, end=1)
        return w.op("Expand", w.shared("mask_none", np.zeros(1, np.int32)), size, shape=[batch], dtype=_I32)
    # The fused operator takes int32 masks only.
    return w.op("ReduceSum", mask, axis, shape=[batch], dtype=_I32, keepdims=0)

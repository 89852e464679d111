"""Attention becomes one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply
from bqc.passes._graph import made_with

__all__ = ["FoldAttention"]


@dataclass(frozen=True)
class FoldAttention(ir.passes.InPlacePass):
    """Fold scores, softmax, context and the context's quantisation.

    Before: ``BlockQuantize(BlockContext(MaskedSoftmax(BlockScores(q, eq, k, ek), mask), v, ev))``
    After:  ``BlockAttention(q, eq, k, ek, v, ev, mask)``

    Contract: exact.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, _Attention)


class _Attention(FoldRule):
    def pattern(self, op: Any, q: Any, eq: Any, k: Any, ek: Any, v: Any, ev: Any, mask: Any) -> Any:
        options = {"_domain": DOMAIN, "_allow_other_attributes": True}
        scores = op.BlockScores(q, eq, k, ek, _outputs=["scores"], **options)
        codes = op.MaskedSoftmax(scores, mask, _outputs=["p"], **options)
        context = op.BlockContext(codes, v, ev, _outputs=["merged"], **options)
        return op.BlockQuantize(context, _outputs=["codes", "e"], **options)

    def check(
        self, context: Any, scores: ir.Value, merged: ir.Value, codes: ir.Value, v: ir.Value, **_: Any
    ) -> Any:
        result = pattern.MatchResult()
        left, out = made_with(scores), made_with(codes)
        assert v.shape is not None, "inferred"
        if out["group"] * left["heads"] != v.shape[-1] or out["block"] != left["block"]:
            return result.fail("the context is not quantised in the same blocks inside heads", codes)
        if min(made_with(merged)["block"], out["group"]) != min(left["block"], out["group"]):
            return result.fail("values are not in the blocks of queries and keys", merged)
        return result

    def rewrite(
        self, op: Any, scores: ir.Value, merged: ir.Value, p: ir.Value, codes: ir.Value, **v: Any
    ) -> Any:
        inputs = [v[name] for name in ["q", "eq", "k", "ek", "v", "ev", "mask"]]
        attributes = {
            **made_with(scores),
            "out_bits": made_with(codes)["bits"],
        }
        return self.fused(
            op, "BlockAttention", inputs, attributes, last=codes, like=merged, through=[scores, p, merged]
        )

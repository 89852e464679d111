"""Attention that stays float becomes one operator too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.ir.anatomy import role
from bqc.ir.rewrite import drop_dead
from bqc.ir.rules import counted
from bqc.passes._fold import FoldRule
from bqc.passes._graph import constant
from bqc.passes._key_mask import KeyMasks, mask_cast, masked

__all__ = ["FoldFloatAttention"]


@dataclass(frozen=True)
class FoldFloatAttention(ir.passes.InPlacePass):
    """Fold the head split, scores, softmax and context of float queries, keys and values.

    Before::

        p = Softmax(Add(Mul(MatMul(heads(q), heads_t(k)), scale), mask_bias))
        merge(MatMul(p, heads(v)))

    After::

        FloatAttention(q, k, v, mask)

    where heads is Reshape [0, 0, h, d] and Transpose. Only where mask_bias is that of a key padding mask, or there is
    none: then the mask is all ones. Attention to which more is added, as a bias of positions, or whose probabilities
    are read otherwise too, stays as it is. Contract: ulp; the operator's sums have an order, those of MatMul and
    Softmax none.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        masks = KeyMasks(model)
        rules = pattern.RewriteRuleSet([counted(_Masked(masks)), counted(_Unmasked(masks))])
        count = rules.apply_to_model(model)
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


class _Attention(FoldRule):
    def __init__(self, masks: KeyMasks) -> None:
        super().__init__()
        self._masks = masks

    def products(self, op: Any, scores: Any, v: Any, split_v: Any, merge: Any) -> Any:
        """In a pattern: what follows the scores."""
        v4 = op.Transpose(op.Reshape(v, split_v, _allow_other_attributes=True), perm=[0, 2, 1, 3])
        c4 = op.MatMul(op.Softmax(scores, axis=-1, _outputs=["p"]), v4, _outputs=["c4"])
        turned = op.Transpose(c4, perm=[0, 2, 1, 3])
        return op.Reshape(turned, merge, _outputs=["merged"], _allow_other_attributes=True)

    def scores(self, op: Any, q: Any, k: Any, split_q: Any, split_k: Any, scale: Any) -> Any:
        """In a pattern: the scores before the mask."""
        q4 = op.Transpose(op.Reshape(q, split_q, _allow_other_attributes=True), perm=[0, 2, 1, 3])
        k4 = op.Transpose(op.Reshape(k, split_k, _allow_other_attributes=True), perm=[0, 2, 3, 1])
        return op.Mul(op.MatMul(q4, k4, _outputs=["product"]), scale)

    def check(self, context: Any, **matched: Any) -> Any:
        result = pattern.MatchResult()
        factor, merge = constant(matched["scale"]), constant(matched["merge"])
        splits = [constant(matched[name]) for name in ("split_q", "split_k", "split_v")]
        sizes = [None if split is None else split.tolist() for split in splits]
        if role(matched["p"].producer()) != "attention.softmax":
            return result.fail("it is not known to be attention", matched["p"])
        if factor is None or factor.size != 1 or not np.isfinite(factor).all():
            return result.fail("the scale is not a constant number", matched["scale"])
        if sizes[0] is None or len(sizes[0]) != 4 or sizes[0][:2] != [0, 0] or sizes != [sizes[0]] * 3:
            return result.fail("queries, keys and values are not split into the same heads", matched["p"])
        if merge is None or merge.tolist() != [0, 0, sizes[0][2] * sizes[0][3]]:
            return result.fail("heads are not merged as they were split", matched["merge"])
        return result

    def rewrite(
        self,
        op: Any,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        split_q: ir.Value,
        scale: ir.Value,
        product: ir.Value,
        p: ir.Value,
        c4: ir.Value,
        merged: ir.Value,
        **_: Any,
    ) -> Any:
        split, factor, softmax = constant(split_q), constant(scale), p.producer()
        assert split is not None, "checked"
        assert factor is not None, "checked"
        assert softmax is not None, "matched"
        inputs = [q, k, v, self._masks.of(mask_cast(masked(softmax)[1]))]
        attributes = {"heads": int(split[2]), "scale": float(factor.reshape(-1)[0])}
        return self.fused(
            op, "FloatAttention", inputs, attributes, last=merged, like=merged, through=[product, p, c4]
        )


class _Masked(_Attention):
    def pattern(
        self,
        op: Any,
        q: Any,
        k: Any,
        v: Any,
        split_q: Any,
        split_k: Any,
        split_v: Any,
        scale: Any,
        bias: Any,
        merge: Any,
    ) -> Any:
        scores = op.Add(self.scores(op, q, k, split_q, split_k, scale), bias)
        return self.products(op, scores, v, split_v, merge)

    def check(self, context: Any, **matched: Any) -> Any:
        softmax = matched["p"].producer()
        cast = mask_cast(masked(softmax)[1])
        mask = None if cast is None else cast.inputs[0]
        if mask is None or mask.shape is None or len(mask.shape) != 2:
            return pattern.MatchResult().fail("what is added to the scores is no key padding mask", softmax)
        return super().check(context, **matched)


class _Unmasked(_Attention):
    def pattern(
        self,
        op: Any,
        q: Any,
        k: Any,
        v: Any,
        split_q: Any,
        split_k: Any,
        split_v: Any,
        scale: Any,
        merge: Any,
    ) -> Any:
        return self.products(op, self.scores(op, q, k, split_q, split_k, scale), v, split_v, merge)

"""The embedding block becomes one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply
from bqc.passes._graph import made_with
from bqc.passes.fold_matmul import out_attributes

__all__ = ["FoldEmbedding"]


@dataclass(frozen=True)
class FoldEmbedding(ir.passes.InPlacePass):
    """Fold three lookups, their sum, the LayerNormalization and its quantisation.

    Before::

        BlockQuantize(LayerNormalization(Add(Add(BlockGather(ids, ...), BlockGather(type_ids, ...)),
                                             BlockGather(position_ids, ...)), gamma, beta))

    After::

        EmbeddingLayerNorm(ids, type_ids, position_ids, word, ew, type, et, position, ep, gamma, beta)

    A word table in tiles, BlockGatherTiles, becomes EmbeddingLayerNormTiles, one of signs, SignGather,
    SignEmbeddingLayerNorm. Contract: ulp.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, _Embedding, _EmbeddingTiles, _SignEmbedding)


class _Embedding(FoldRule):
    words = "BlockGather"
    """What looks the words up."""
    folded = "EmbeddingLayerNorm"

    def pattern(
        self,
        op: Any,
        ids: Any,
        word: Any,
        ew: Any,
        type_ids: Any,
        kind: Any,
        et: Any,
        position_ids: Any,
        position: Any,
        ep: Any,
        gamma: Any,
        beta: Any,
    ) -> Any:
        options = {"_domain": DOMAIN, "_allow_other_attributes": True}
        a = getattr(op, self.words)(ids, word, ew, _outputs=["a"], **options)
        b = op.BlockGather(type_ids, kind, et, _outputs=["b"], **options)
        c = op.BlockGather(position_ids, position, ep, _outputs=["c"], **options)
        total = op.Add(op.Add(a, b), c)
        norm = op.LayerNormalization(total, gamma, beta, _outputs=["norm"], _allow_other_attributes=True)
        return op.BlockQuantize(norm, _outputs=["codes", "e"], **options)

    def check(self, context: Any, a: ir.Value, b: ir.Value, c: ir.Value, ids: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        blocks = {made_with(v)["block"] for v in (a, b, c) if "block" in made_with(v)}
        if len(blocks) > 1:
            return result.fail(f"the tables have different blocks: {sorted(blocks)}", a)
        if ids.shape is None or len(ids.shape) != 2:
            return result.fail("ids are not [B, S]", ids)
        return result

    def rewrite(
        self, op: Any, a: ir.Value, b: ir.Value, c: ir.Value, norm: ir.Value, codes: ir.Value, **v: Any
    ) -> Any:
        word, kind, position = (made_with(x) for x in (a, b, c))
        attributes = {
            "columns": word["columns"],
            "type_bits": kind["bits"],
            "position_bits": position["bits"],
            "block": kind["block"],
            "epsilon": made_with(norm).get("epsilon", 1e-5),
            **out_attributes(codes),
        }
        if "bits" in word:
            attributes["word_bits"] = word["bits"]
        if "rows" in word:
            attributes["rows"] = word["rows"]
        names = [
            "ids",
            "type_ids",
            "position_ids",
            "word",
            "ew",
            "kind",
            "et",
            "position",
            "ep",
            "gamma",
            "beta",
        ]
        inputs = [v[name] for name in names]
        return self.fused(op, self.folded, inputs, attributes, last=codes, like=norm, through=[a, b, c])


class _EmbeddingTiles(_Embedding):
    words = "BlockGatherTiles"
    folded = "EmbeddingLayerNormTiles"


class _SignEmbedding(_Embedding):
    words = "SignGather"
    folded = "SignEmbeddingLayerNorm"

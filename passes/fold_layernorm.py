"""Residual sum, LayerNormalization and quantisation join the linear before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply, linear
from bqc.passes._graph import made_with
from bqc.passes.fold_matmul import out_attributes

__all__ = ["FoldLayerNorm"]


@dataclass(frozen=True)
class FoldLayerNorm(ir.passes.InPlacePass):
    """Fold the end of a sub-layer.

    Before::

        BlockQuantize(LayerNormalization(Add(BlockLinear(...), BlockDequantize(r, er)), gamma, beta))

    After::

        BlockLinearAddNorm(..., r, er, gamma, beta)

    and so with weights of signs, SignLinear, SignLinearAddNorm, and sparse ones, SparseLinear, SparseLinearAddNorm; and
    XnorLinear, XnorLinearAddNorm. Contract: ulp (the operator sums rows in integers).
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, _LinearAddNorm, _SignLinearAddNorm, _SparseLinearAddNorm, _XnorLinearAddNorm)


class _LinearAddNorm(FoldRule):
    reads_dequantized = True

    def pattern(
        self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any, r: Any, er: Any, gamma: Any, beta: Any
    ) -> Any:
        return self.ending(op, [x, ex, w, ew, bias], r, er, gamma, beta)

    def ending(self, op: Any, inputs: list[Any], r: Any, er: Any, gamma: Any, beta: Any) -> Any:
        """In a pattern: all from the linear of these inputs on."""
        y = linear(self, op, "Linear", inputs, "y")
        skip = op.BlockDequantize(r, er, _domain=DOMAIN, _outputs=["skip"], _allow_other_attributes=True)
        total = op.Add(y, skip)
        norm = op.LayerNormalization(total, gamma, beta, _outputs=["norm"], _allow_other_attributes=True)
        return op.BlockQuantize(norm, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def check(self, context: Any, norm: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        axis = made_with(norm).get("axis", -1)
        if norm.shape is not None and axis not in (-1, len(norm.shape) - 1):
            return result.fail(f"LayerNormalization over axis {axis}, not the last", norm)
        return result

    def rewrite(
        self,
        op: Any,
        r: Any,
        er: Any,
        gamma: Any,
        beta: Any,
        y: ir.Value,
        skip: ir.Value,
        norm: ir.Value,
        codes: ir.Value,
        **_: Any,
    ) -> Any:
        residual = made_with(skip)
        attributes = {
            **made_with(y),
            **out_attributes(codes),
            "residual_block": residual["block"],
            "residual_group": residual["group"],
            "epsilon": made_with(norm).get("epsilon", 1e-5),
        }
        product = y.producer()
        assert product is not None, "matched values have producers"
        inputs = [*product.inputs, r, er, gamma, beta]
        name = f"{self.family}LinearAddNorm"
        return self.fused(op, name, inputs, attributes, last=codes, like=y, through=[y, norm])


class _SignLinearAddNorm(_LinearAddNorm):
    family = "Sign"


class _SparseLinearAddNorm(_LinearAddNorm):
    family = "Sparse"


class _XnorLinearAddNorm(_LinearAddNorm):
    family = "Xnor"

    def pattern(  # type: ignore[override]
        self, op: Any, x: Any, w: Any, sw: Any, bias: Any, r: Any, er: Any, gamma: Any, beta: Any
    ) -> Any:
        return self.ending(op, [x, w, sw, bias], r, er, gamma, beta)

"""GELU and the quantisation of its output join the linear before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply, linear
from bqc.passes._graph import made_with
from bqc.passes.fold_matmul import out_attributes

__all__ = ["FoldGelu"]


@dataclass(frozen=True)
class FoldGelu(ir.passes.InPlacePass):
    """Fold GELU and the quantisation of its output into the linear before them.

    Before: ``BlockQuantize(Gelu(BlockLinear(...)))``
    After:  ``BlockLinearGelu(...)``

    and so with weights of signs, ``SignLinear``, ``SignLinearGelu``, and sparse ones, ``SparseLinear``,
    ``SparseLinearGelu``. Contract: ulp (the operator's GELU is a polynomial within 1.5e-6 of either form).
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, _LinearGelu, _SignLinearGelu, _SparseLinearGelu)


class _LinearGelu(FoldRule):
    def pattern(self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any) -> Any:
        y = linear(self, op, "Linear", [x, ex, w, ew, bias], "y")
        g = op.Gelu(y, _outputs=["g"], _allow_other_attributes=True)
        return op.BlockQuantize(g, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def rewrite(
        self,
        op: Any,
        x: Any,
        ex: Any,
        w: Any,
        ew: Any,
        bias: Any,
        y: ir.Value,
        g: ir.Value,
        codes: ir.Value,
        **_: Any,
    ) -> Any:
        form = made_with(g).get("approximate", "none")
        attributes = {
            **made_with(y),
            **out_attributes(codes),
            "approximate": int(form == "tanh"),
        }
        inputs = [x, ex, w, ew, bias]
        name = f"{self.family}LinearGelu"
        return self.fused(op, name, inputs, attributes, last=codes, like=y, through=[y, g])


class _SignLinearGelu(_LinearGelu):
    family = "Sign"


class _SparseLinearGelu(_LinearGelu):
    family = "Sparse"

"""The pooler's tanh becomes the one whose every bit is defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply
from bqc.passes._graph import made_with

__all__ = ["FoldHead"]


@dataclass(frozen=True)
class FoldHead(ir.passes.InPlacePass):
    """Give the pooler the tanh whose every bit is defined.

    Before: ``BlockQuantize(Tanh(x))``
    After:  ``BlockQuantize(ai.bqc.Tanh(x))``

    Contract: ulp.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, _Tanh)


class _Tanh(FoldRule):
    def pattern(self, op: Any, x: Any) -> Any:
        t = op.Tanh(x, _outputs=["t"])
        return op.BlockQuantize(t, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def rewrite(self, op: Any, x: Any, t: ir.Value, codes: ir.Value, **_: Any) -> Any:
        exact = self.fused(op, "Tanh", [x], {}, last=t, like=t)
        return self.fused(op, "BlockQuantize", [exact], made_with(codes), last=codes, like=t, through=[t])

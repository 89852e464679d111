"""The residual sum before each LayerNormalization is written branch first."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.counting import may_rewrite
from bqc.ir.match import as_linear

__all__ = ["ImportResidual"]


@dataclass(frozen=True)
class ImportResidual(ir.passes.InPlacePass):
    """Order the operands of residual sums (floating point addition commutes, so this is exact).

    Before: `LayerNormalization(Add(h, linear))`
    After: `LayerNormalization(Add(linear, h))`

    Where both are linears, the branch is the one that nothing else reads.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for norm in model.graph:
            add = (
                norm.inputs[0].producer() if norm.op_type == "LayerNormalization" and norm.inputs[0] else None
            )
            if add is None or add.op_type != "Add":
                continue
            first, second = add.inputs
            if not _is_branch(first) and _is_branch(second) and may_rewrite(add):
                add.replace_input_with(0, second)
                add.replace_input_with(1, first)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_branch(value: ir.Value | None) -> bool:
    return value is not None and as_linear(value) is not None and len(value.consumers()) == 1

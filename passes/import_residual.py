"""The residual sum before each LayerNormalization is written branch first."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.ir.match import as_linear

__all__ = ["ImportResidual"]


@dataclass(frozen=True)
class ImportResidual(ir.passes.InPlacePass):
    """Order the operands of residual sums (floating point addition commutes, so this is exact).

    Before: `LayerNormalization(Add(h, linear))`
    After: `LayerNormalization(Add(linear, h))`
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for norm in model.graph:
            add = (
                norm.inputs[0].producer() if norm.op_type == "LayerNormalization" and norm.inputs[0] else None
            )
            if add is None or add.op_type != "Add":
                continue
            first, second = add.inputs
            if as_linear(first) is None and as_linear(second) is not None:
                add.replace_input_with(0, second)
                add.replace_input_with(1, first)
                modified = True
        return ir.passes.PassResult(model, modified)

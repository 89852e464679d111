"""Every value of the canonical form has a type and a shape."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from bqc.contract import Contract

__all__ = ["ImportTypes"]


@dataclass(frozen=True)
class ImportTypes(ir.passes.InPlacePass):
    """Infer what the exporter left out; ONNX Runtime's optimizers, for one, write no types between nodes.

    Before: `h = LayerNormalization(...)` of unknown shape
    After: `h: float[batch, sequence, 48]`
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        values = (value for node in model.graph for value in node.outputs)
        if all(value.dtype is not None and value.shape is not None for value in values):
            return ir.passes.PassResult(model, False)
        return ir.passes.PassResult(model, common.ShapeInferencePass()(model).modified)

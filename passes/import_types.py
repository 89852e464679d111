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

    Before: `h = LayerNormalization(...)` of unknown shape, or an output declared `float[batch, sequence, width]`
    After: `h: float[batch, sequence, 48]`
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        values = (value for node in model.graph for value in node.outputs)
        if all(value.dtype is not None and value.shape is not None for value in values) and not any(
            _open_width(value) for value in model.graph.outputs
        ):
            return ir.passes.PassResult(model, False)
        return ir.passes.PassResult(model, common.ShapeInferencePass()(model).modified)


def _open_width(output: ir.Value) -> bool:
    """Is the last axis of what may be a hidden state declared without a number?"""
    return output.shape is not None and len(output.shape) == 3 and not isinstance(output.shape[-1], int)

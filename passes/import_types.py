"""Every value of the canonical form has a type and a shape."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import dims
from bqc.ir.inference import infer_shapes
from bqc.ir.match import is_weight, size_of

__all__ = ["ImportTypes"]


@dataclass(frozen=True)
class ImportTypes(ir.passes.InPlacePass):
    """Infer what the exporter left out; ONNX Runtime's optimizers, for one, write no types between nodes.

    Before: `h = LayerNormalization(...)` of unknown shape, or an output declared `float[batch, sequence, width]`
    After: `h: float[batch, sequence, 48]`

    What is multiplied by a matrix [K, N] has K columns, where nothing else tells.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        values = (value for node in model.graph for value in node.outputs)
        typed = all(value.dtype is not None and value.shape is not None for value in values)
        inferred = False
        if not typed or any(_open_width(value) for value in model.graph.outputs):
            inferred = infer_shapes(model)
        learnt = [_learn_width(node) for node in model.graph if node.op_type == "MatMul"]
        return ir.passes.PassResult(model, inferred or any(learnt))


def _learn_width(product: ir.Node) -> bool:
    x, weight = product.inputs
    if x is None or x.shape is None or not len(x.shape) or isinstance(x.shape[-1], int):
        return False
    if x.is_graph_input() or weight is None or not is_weight(weight, 2):
        return False
    x.shape = ir.Shape([*(dims(x) or [])[:-1], size_of(weight, 0)])
    return True


def _open_width(output: ir.Value) -> bool:
    """Is the last axis of what may be a hidden state declared without a number?"""
    return output.shape is not None and len(output.shape) == 3 and not isinstance(output.shape[-1], int)

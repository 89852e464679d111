"""SkipLayerNormalization of ONNX Runtime becomes Add and LayerNormalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, dims, write_norm
from bqc.ir.match import is_weight, size_of
from bqc.passes._contrib import apply, fed, refuse_unless

__all__ = ["ImportContribNorm"]


@dataclass(frozen=True)
class ImportContribNorm(ir.passes.InPlacePass):
    """Separate the residual sum from the norm, and the bias of the linear before it from both.

    Before: `com.microsoft.SkipLayerNormalization(MatMul(x, W), skip, gamma, beta, bias)`
    After: `LayerNormalization(Add(Add(MatMul(x, W), bias), skip), gamma, beta)`

    The sum, its fourth output, stays one; mean and inverse deviation have no standard counterpart.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, "contrib-norm", {"SkipLayerNormalization": _skip})


def _skip(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    x, skip, gamma, beta, bias = (fed(node, i) for i in range(5))
    refuse_unless(is_weight(gamma, 1), "its gamma is no vector of constants")
    assert x is not None
    assert skip is not None
    assert gamma is not None, "these three are not optional"
    if bias is not None:
        # The bias belongs to the linear it was taken from, which may be either operand.
        if _is_product(skip) and not _is_product(x):
            x, skip = skip, x
        x = w.op("Add", x, bias, shape=dims(x))
    total = w.op("Add", x, skip, shape=dims(x) or dims(skip))
    if beta is None:
        beta = w.const(f"{gamma.name}.zero_beta", np.zeros(size_of(gamma, 0), np.float32))
    norm = write_norm(w, total, gamma, beta, node.attributes.get_float("epsilon", 1e-12) or 0.0)
    return [norm, None, None, total]


def _is_product(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "MatMul" and is_weight(node.inputs[1], 2)

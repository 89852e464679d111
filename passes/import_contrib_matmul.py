"""FusedMatMul and FusedGemm of ONNX Runtime become MatMul, Gemm and what was fused into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer
from bqc.ir.match import is_weight, rank
from bqc.passes._contrib import apply, fed, refuse_unless

__all__ = ["ImportContribMatMul"]

_ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign")


@dataclass(frozen=True)
class ImportContribMatMul(ir.passes.InPlacePass):
    """Take transposes, factors and activations out of products again.

    Before: `com.microsoft.FusedMatMul(a, b; alpha, transB=1)`, `com.microsoft.FusedGemm(x, W, b; activation="Tanh")`
    After: `Mul(MatMul(a, Einsum(b; "...ij->...ji")), alpha)`, `Tanh(Gemm(x, W, b))`

    Einsum turns the last two axes of a value whose rank is not known; constants and known ranks get a Transpose.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(
            model,
            "contrib-matmul",
            {"FusedMatMul": _matmul, "TransposeMatMul": _matmul, "FusedGemm": _gemm},
        )


def _matmul(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    get = node.attributes.get_int
    refuse_unless(
        not get("transBatchA", 0) and not get("transBatchB", 0), "it moves the batch axis (transBatchA or B)"
    )
    a, b = (
        _turned(w, value) if get(flag, 0) else value
        for flag, value in zip(("transA", "transB"), node.inputs, strict=True)
    )
    product = w.op("MatMul", a, b)
    alpha = node.attributes.get_float("alpha", 1.0)
    if alpha == 1.0:
        return [product]
    return [w.op("Mul", product, w.shared("fused_alpha", np.float32(alpha)))]


def _turned(w: Writer, value: ir.Value | None) -> ir.Value:
    assert value is not None, "a product has two operands"
    axes = len(value.const_value.shape) if is_weight(value) and value.const_value is not None else rank(value)
    if axes is None or axes < 2:
        return w.op("Einsum", value, equation="...ij->...ji")
    return w.op("Transpose", value, perm=[*range(axes - 2), axes - 1, axes - 2])


def _gemm(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    activation = node.attributes.get_string("activation", "") or ""
    refuse_unless(activation in _ACTIVATIONS, f"its activation is {activation or 'not named'}")
    inputs = [v for v in (fed(node, i) for i in range(3)) if v is not None]
    get = node.attributes
    product = w.op(
        "Gemm",
        *inputs,
        alpha=get.get_float("alpha", 1.0) or 0.0,
        beta=get.get_float("beta", 1.0) or 0.0,
        transA=get.get_int("transA", 0) or 0,
        transB=get.get_int("transB", 0) or 0,
    )
    return [w.op(activation, product)]

"""Gelu, BiasGelu, FastGelu and QuickGelu of ONNX Runtime become standard operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, dims
from bqc.passes._contrib import apply, fed

__all__ = ["ImportContribGelu"]


@dataclass(frozen=True)
class ImportContribGelu(ir.passes.InPlacePass):
    """Say with standard operators what the fused activations compute.

    Before: `com.microsoft.BiasGelu(x, b)`, `com.microsoft.FastGelu(x, b?)`, `com.microsoft.Gelu(x)`
    After: `Gelu(Add(x, b))`, `Gelu(Add(x, b); approximate="tanh")`, `Gelu(x)`

    QuickGelu is `x * sigmoid(alpha x)`, which is no GELU: it is written out and stays float.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(
            model,
            "contrib-gelu",
            {"Gelu": _exact, "BiasGelu": _exact, "FastGelu": _tanh, "QuickGelu": _quick},
        )


def _exact(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    return _gelu(w, node, "none")


def _tanh(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    return _gelu(w, node, "tanh")


def _gelu(w: Writer, node: ir.Node, approximate: str) -> Sequence[ir.Value | None]:
    x, bias = node.inputs[0], fed(node, 1)
    assert x is not None, "an activation has an input"
    if bias is not None:
        x = w.op("Add", x, bias, shape=dims(x))
    return [w.op("Gelu", x, shape=dims(x), approximate=approximate)]


def _quick(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    x = node.inputs[0]
    assert x is not None, "an activation has an input"
    factor = w.shared("quick_gelu_alpha", np.float32(node.attributes.get_float("alpha", 1.702)))
    return [
        w.op("Mul", x, w.op("Sigmoid", w.op("Mul", x, factor, shape=dims(x)), shape=dims(x)), shape=dims(x))
    ]

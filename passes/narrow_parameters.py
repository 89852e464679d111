"""Biases and norms are stored in fp16, where the plan says so."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.formats.half import to_half
from bqc.ops.constants import HALF_MAX
from bqc.ops.registry import DOMAIN, OPERATORS
from bqc.plan import Plan

__all__ = ["NarrowParameters"]

_NARROW = ("bias", "gamma", "beta")
"""Inputs of operators, which widen them."""


@dataclass(frozen=True)
class NarrowParameters(ir.passes.InPlacePass):
    """Round the biases, and the factors and terms of norms, of ``ai.bqc`` operators to fp16.

    Before::

        y = SignLinear(x, ex, planes, scales, bias float32 [N])

    After::

        y = SignLinear(x, ex, planes, scales, bias float16 [N])

    Only where the plan has ``parameters: fp16``. What other nodes read as well stays, as do numbers beyond
    fp16, a LayerNorm of its own, and what float nodes read.

    Contract: lossy. A number changes by at most 2**-11 of itself, one below 2**-14 by at most 2**-25.
    """

    contract = Contract("lossy", cosine_min=0.8)

    cosine_min: float = 0.8
    """What it promises of outputs; -1 of a model whose weights no training has fitted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "contract", replace(self.contract, cosine_min=self.cosine_min))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if Plan.of(model).parameters != "fp16":
            return ir.passes.PassResult(model, False)
        changed = False
        for value in model.graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT and value.uses() and all(map(_widens, value.uses())):
                numbers = value.const_value.numpy() if value.const_value is not None else np.array([np.inf])
                if np.all(np.abs(numbers) <= HALF_MAX):
                    value.const_value = ir.tensor(to_half(numbers), name=value.name)
                    value.type = ir.TensorType(ir.DataType.FLOAT16)
                    changed = True
        return ir.passes.PassResult(model, changed)


def _widens(use: tuple[ir.Node, int]) -> bool:
    """Whether the operator takes that input in fp16 as well."""
    node, index = use
    operator = OPERATORS.get(node.op_type) if node.domain == DOMAIN else None
    return operator is not None and operator.name != "LayerNorm" and operator.inputs[index] in _NARROW

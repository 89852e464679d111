"""Score what each weight loses in the formats that a plan may choose from, without data."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.formats import BlockShift
from bqc.ir.anatomy import LINEAR_ROLES, TABLE_ROLES, role
from bqc.passes._graph import constant
from bqc.passes._weights import weight_inputs

__all__ = ["SENSITIVITY_KEY", "AnnotateSensitivity"]

SENSITIVITY_KEY = "bqc.sensitivity"


@dataclass(frozen=True)
class AnnotateSensitivity(ir.passes.InPlacePass):
    """Write the relative squared error of every weight in each format onto its node.

    Before: ``MatMul(x, W)`` labelled ``0:ffn.output``
    After:  the same node with ``bqc.sensitivity = {"BlockShift(8,64)": 3.1e-05, ...}``

    The score is ``sum((W - Q(W))^2) / sum(W^2)`` (`BlockShift.weight_error`): data-free, comparable between
    weights of different size.
    """

    contract = Contract("exact")

    bits: tuple[int, ...] = (8, 4)
    block: int | str = 64

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        for node, weight, axis in weight_inputs(model):
            if role(node) not in LINEAR_ROLES + TABLE_ROLES:
                continue
            data = constant(weight)
            assert data is not None, "weight_inputs yields initializers"
            matrix = data.T if axis == 0 else data
            formats = [BlockShift(bits, self.block) for bits in self.bits]
            scores = {str(fmt): fmt.weight_error(matrix) for fmt in formats}
            node.metadata_props[SENSITIVITY_KEY] = json.dumps(scores)
            count += 1
        return ir.passes.PassResult(model, count > 0)

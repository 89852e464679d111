"""The inputs of linears that multiply signs by signs become signs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.formats import Xnor
from bqc.ir.counting import may_rewrite
from bqc.ops.registry import DOMAIN
from bqc.passes._graph import block_node, dims, key_of, produced_by
from bqc.passes._weights import is_linear
from bqc.plan import Plan

__all__ = ["BinarizeInputs"]


@dataclass(frozen=True)
class BinarizeInputs(ir.passes.InPlacePass):
    """Insert a pair before every product whose weight the plan gives the format `Xnor`.

    Before::

        MatMul(x, W)

    After::

        MatMul(BinaryDequantize(Binarize(x)), W)

    Only products read the signs: a residual sum goes on reading x. Products of the same x share a pair. Source:
    SensiMix (PLoS ONE 10.1371/journal.pone.0265621), 1-bit value quantisation, with the residual of its inference, not
    of its training. Contract: lossy, without a bound, as signs need training.
    """

    contract = Contract("lossy", cosine_min=-1.0)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        plan = Plan.of(model)
        pairs: dict[ir.Value, ir.Value] = {}
        count = 0
        for node in list(model.graph):
            if not is_linear(node) or not isinstance(plan.weights.get(key_of(node)), Xnor):
                continue
            x = node.inputs[0]
            if produced_by(x, "BinaryDequantize", DOMAIN) or not may_rewrite(node):
                continue
            assert x is not None, "a MatMul has two inputs"
            if x not in pairs:
                bits = block_node("Binarize", [x], {}, like=node)
                back = block_node("BinaryDequantize", bits.outputs, {"columns": dims(x)[-1]}, like=node)
                model.graph.insert_before(node, [bits, back])
                pairs[x] = back.outputs[0]
            node.replace_input_with(0, pairs[x])
            count += 1
        return ir.passes.PassResult(model, count > 0)

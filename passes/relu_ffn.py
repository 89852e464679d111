"""GELU of the FFNs becomes ReLU."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.anatomy import ANATOMY_KEY, encoder, record, role

__all__ = ["ReluFfn"]


@dataclass(frozen=True)
class ReluFfn(ir.passes.InPlacePass):
    """Replace the GELU of every FFN by ReLU, for a model that is trained after it.

    Before::

        g = Gelu(Add(MatMul(a, W1[H, F]), b1))

    After::

        g = Relu(Add(MatMul(a, W1[H, F]), b1))

    Source: the code of BinaryBERT (arXiv 2012.15701), whose models with 4-bit activations have ReLU.

    Contract: lossy, and nothing is promised of the outputs: without training the model is another one.

    Raises:
        BqcError: no FFN of the model has GELU or ReLU, as in one that is compiled already.
    """

    contract = Contract("lossy", cosine_min=-1.0)
    trainable = True
    """What it leaves can be trained: a stage of a recipe may name it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if role(node) == "ffn.gelu" and not node.domain]
        gelus = [node for node in nodes if node.op_type == "Gelu"]
        if not gelus and all(node.op_type != "Relu" for node in nodes):
            raise BqcError(
                "no FFN of the model has GELU or ReLU: relu-ffn runs on a float model, before it is compiled"
            )
        for node in gelus:
            node.op_type = "Relu"
            node.attributes.clear()
        if gelus and ANATOMY_KEY in model.metadata_props:
            anatomy = encoder(model)
            record(model, anatomy.layers, anatomy.float_parts)
        return ir.passes.PassResult(model, bool(gelus))

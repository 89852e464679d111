"""The function bodies of every `ai.bqc` operator in use join the model."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ops.functions import functions_for
from bqc.ops.registry import DOMAIN, OPERATORS, VERSION

__all__ = ["AttachFunctions"]


@dataclass(frozen=True)
class AttachFunctions(ir.passes.InPlacePass):
    """Save the definition of each operator in the file, so that it runs without the kernel library.

    Before: nodes of ``ai.bqc``. After: the same nodes, and a model-local function for each and for all they
    call. Contract: exact.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        used = frozenset(node.op_type for node in model.graph if node.domain == DOMAIN)
        for unknown in sorted(used - OPERATORS.keys()):
            raise BqcError(f"{DOMAIN} has no operator {unknown}; the model is damaged, or of a newer bqc")
        for proto in _bodies(used):
            function = ir.serde.deserialize_function(proto)
            model.functions[function.identifier()] = function
        if used:
            model.graph.opset_imports[DOMAIN] = VERSION
        return ir.passes.PassResult(model, bool(used))


@functools.cache
def _bodies(used: frozenset[str]) -> list[onnx.FunctionProto]:
    """Verification attaches the same bodies again and again, and translating them takes a while."""
    found = functions_for(used)
    for proto in found:
        for node in proto.node:
            node.doc_string = ""
    return found

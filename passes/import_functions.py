"""Model-local functions are written out."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from bqc.contract import Contract
from bqc.errors import BqcError

__all__ = ["ImportFunctions"]


@dataclass(frozen=True)
class ImportFunctions(ir.passes.InPlacePass):
    """Inline every function that the model brings along.

    Before: `y = my.domain.Gelu(x)`, with a function `my.domain.Gelu` in the model
    After: `y = Mul(x, Mul(Add(Erf(Div(x, 1.414...)), 1), 0.5))`, no functions

    Raises:
        BqcError: a function calls itself, or expects another opset than the model.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not model.functions:
            return ir.passes.PassResult(model, False)
        try:
            common.InlinePass()(model)
        except Exception as error:
            cause = error.__cause__ or error
            raise BqcError(f"the model's functions cannot be written out: {cause}") from error
        domains = {node.domain for node in ir.traversal.RecursiveGraphIterator(model.graph)}
        for domain in [d for d in model.graph.opset_imports if d and d not in domains]:
            del model.graph.opset_imports[domain]
        return ir.passes.PassResult(model, True)

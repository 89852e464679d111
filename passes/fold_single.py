"""What no larger fold took becomes a single operator whose every bit is defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.ir.anatomy import VALUE_KEY, value_key
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import take_place
from bqc.passes._fold import DOMAIN, FoldRule, apply
from bqc.passes._graph import attributes_of, block_node, made_with
from bqc.passes.fold_gelu import gelu_form
from bqc.passes.fold_layernorm import norm_problem

__all__ = ["FoldSingle"]


@dataclass(frozen=True)
class FoldSingle(ir.passes.InPlacePass):
    """Replace the float operators that stand alone, before a quantisation and behind weights in fp16.

    Before::

        BlockQuantize(LayerNormalization(x, gamma, beta))       BlockQuantize(Gelu(x))
        LayerNorm(Gelu(x), gamma, beta)

    After::

        BlockQuantize(LayerNorm(x, gamma, beta))                BlockQuantize(ai.bqc.Gelu(x))
        LayerNorm(ai.bqc.Gelu(x), gamma, beta)

    and so before a StaticQuantize, and behind linears and tables in fp16 and indices, or sums of these. There the
    pooler's Tanh is one of them, and others may read what they make. An embedding of two tables, and a head that ends
    in a LayerNormalization, have no operator of their own.
    Contract: ulp (integer sums of rows; a GELU polynomial within 1.5e-6).
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        first = apply(model, _Norm, _Gelu)
        second = apply(model, _GeluNorm)
        third = _before_static(model) + _behind_halves(model)
        return ir.passes.PassResult(model, first.modified or second.modified or third > 0)


def _before_static(model: ir.Model) -> int:
    """Replace what StaticQuantize and StaticQuantizeValues read; how many nodes were."""
    read = [
        node.inputs[0].producer()
        for node in model.graph
        if node.domain == DOMAIN and node.op_type.startswith("StaticQuantize") and node.inputs[0] is not None
    ]
    return sum(_replace(model, node) for node in dict.fromkeys(read) if node is not None)


def _behind_halves(model: ir.Model) -> int:
    """Replace what reads linears and tables in fp16, or sums of these; how many nodes were."""
    halves, count = set[ir.Value | None](), 0
    for node in list(model.graph):
        if node.inputs and node.inputs[0] in halves:
            count += _replace(model, node)
        ours = node.domain == DOMAIN and node.op_type.startswith(("Half", "Index"))
        if ours or (node.op_type == "Add" and not halves.isdisjoint(node.inputs)):
            halves.update(node.outputs)
    return count


def _replace(model: ir.Model, node: ir.Node) -> bool:
    """Put the operator of ``ai.bqc`` in the place of a LayerNormalization, Gelu or Tanh; whether there is one."""
    out = node.outputs[0]
    if node.domain or not may_rewrite(node):
        return False
    if node.op_type == "LayerNormalization" and norm_problem(out) is None:
        name = "LayerNorm"
        attributes: dict[str, Any] = {"epsilon": attributes_of(node).get("epsilon", 1e-5)}
    elif node.op_type in ("Gelu", "Tanh"):
        name, attributes = node.op_type, gelu_form(out) if node.op_type == "Gelu" else {}
    else:
        return False
    inputs = [given for given in node.inputs if given is not None]
    made = block_node(name, inputs, attributes, like=node)
    made.metadata_props[VALUE_KEY] = value_key(node)
    model.graph.insert_before(node, made)
    take_place(out, made.outputs[0])
    model.graph.remove(node, safe=True)
    return True


class _Norm(FoldRule):
    def pattern(self, op: Any, x: Any, gamma: Any, beta: Any) -> Any:
        norm = op.LayerNormalization(x, gamma, beta, _outputs=["norm"], _allow_other_attributes=True)
        return op.BlockQuantize(norm, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def check(self, context: Any, norm: ir.Value, **_: Any) -> Any:
        result, problem = pattern.MatchResult(), norm_problem(norm)
        return result.fail(problem, norm) if problem else result

    def rewrite(
        self, op: Any, x: Any, gamma: Any, beta: Any, norm: ir.Value, codes: ir.Value, **_: Any
    ) -> Any:
        epsilon = {"epsilon": made_with(norm).get("epsilon", 1e-5)}
        exact = self.fused(op, "LayerNorm", [x, gamma, beta], epsilon, last=norm, like=norm)
        return self.fused(
            op, "BlockQuantize", [exact], made_with(codes), last=codes, like=norm, through=[norm]
        )


class _Gelu(FoldRule):
    def pattern(self, op: Any, x: Any) -> Any:
        g = op.Gelu(x, _outputs=["g"], _allow_other_attributes=True)
        return op.BlockQuantize(g, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def rewrite(self, op: Any, x: Any, g: ir.Value, codes: ir.Value, **_: Any) -> Any:
        exact = self.fused(op, "Gelu", [x], gelu_form(g), last=g, like=g)
        return self.fused(op, "BlockQuantize", [exact], made_with(codes), last=codes, like=g, through=[g])


class _GeluNorm(FoldRule):
    def pattern(self, op: Any, x: Any, gamma: Any, beta: Any) -> Any:
        g = op.Gelu(x, _outputs=["g"], _allow_other_attributes=True)
        return op.LayerNorm(g, gamma, beta, _domain=DOMAIN, _outputs=["norm"], _allow_other_attributes=True)

    def rewrite(self, op: Any, x: Any, gamma: Any, beta: Any, g: ir.Value, norm: ir.Value) -> Any:
        exact = self.fused(op, "Gelu", [x], gelu_form(g), last=g, like=g)
        inputs = [exact, gamma, beta]
        return self.fused(op, "LayerNorm", inputs, made_with(norm), last=norm, like=norm)

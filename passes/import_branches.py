"""What types and ranks decide is decided: an If whose condition is known gives way to its branch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.counting import may_rewrite
from bqc.ir.match import constant
from bqc.ir.rewrite import take_place
from bqc.passes.import_fold import ImportFold
from bqc.pipeline import run

__all__ = ["ImportBranches"]


@dataclass(frozen=True)
class ImportBranches(ir.passes.InPlacePass):
    """Exporters that keep a library of functions leave its questions in the graph.

    Before: `t = If(Equal(Size(Shape(w)), 2), then: Transpose(w), else: w)` for a matrix w, `CastLike(2, x)` for float x
    After: `t = Transpose(w)`, initializer `2.0`

    1. `CastLike` becomes Cast where the other's type is known, `Size(Shape(x))` the rank of x where it is known.
    2. An If with a constant condition becomes the branch that is taken.

    Answers are folded after each round, as one may decide the next.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while _answer(model.graph) + _take_branches(model):
            run(model, [ImportFold()])
            modified = True
        return ir.passes.PassResult(model, modified)


def _answer(graph: ir.Graph) -> int:
    count = 0
    for node in list(graph):
        if node.domain != "" or node.op_type not in ("CastLike", "Size"):
            continue
        made = _as_cast(node) if node.op_type == "CastLike" else _as_rank(node)
        if made is None or not may_rewrite(node):
            continue
        graph.insert_before(node, made)
        take_place(node.outputs[0], made.outputs[0])
        graph.remove(node, safe=True)
        count += 1
    return count


def _as_cast(node: ir.Node) -> ir.Node | None:
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return None
    return ir.node("Cast", [node.inputs[0]], {"to": int(like.dtype)}, outputs=[_like(node.outputs[0])])


def _as_rank(node: ir.Node) -> ir.Node | None:
    shape = node.inputs[0].producer() if node.inputs[0] is not None else None
    x = shape.inputs[0] if shape is not None and shape.op_type == "Shape" and not shape.attributes else None
    if x is None or x.shape is None:
        return None
    rank = ir.tensor(np.array(len(x.shape), np.int64))
    return ir.node("Constant", [], {"value": rank}, outputs=[_like(node.outputs[0])])


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(type=value.type, shape=value.shape)


def _take_branches(model: ir.Model) -> int:
    taken = 0
    for node in list(model.graph):
        condition = constant(node.inputs[0]) if node.op_type == "If" and node.domain == "" else None
        if condition is None or condition.size != 1 or not may_rewrite(node):
            continue
        then, other = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
        branch, left = (then, other) if condition.item() else (other, then)
        _move(branch, node, model.graph)
        _release(left)
        taken += 1
    return taken


def _move(branch: ir.Graph, node: ir.Node, graph: ir.Graph) -> None:
    """The nodes of the branch take the place of the If; names are made anew, as other branches use the same."""
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[value.name or ""]
        value.name = f"{node.name or node.outputs[0].name}.{value.name}"
        graph.register_initializer(value)
    inner = list(branch)
    branch.remove(inner)
    for each in inner:
        each.name = None
        for value in each.outputs:
            value.name = None
    graph.insert_before(node, inner)
    for out, result in zip(node.outputs, results, strict=True):
        copy = ir.node("Identity", [result], outputs=[_like(out)])
        graph.insert_before(node, copy)
        take_place(out, copy.outputs[0])
    graph.remove(node, safe=True)


def _release(branch: ir.Graph) -> None:
    """Nodes of a branch that is gone read nothing any more: else what they read would stay for their sake."""
    for node in branch.all_nodes():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    branch.outputs.clear()

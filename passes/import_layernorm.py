"""LayerNorm written as means and squares becomes LayerNormalization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_norm
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import NoMatch, explanation
from bqc.ir.match import constant, is_weight, scalar, size_of
from bqc.ir.rewrite import drop_dead, sources, take_place

__all__ = ["ImportLayerNorm"]


@dataclass(frozen=True)
class ImportLayerNorm(ir.passes.InPlacePass):
    """Recognise LayerNorm over the last axis, anchored at its Sqrt.

    Before::

        d = Sub(x, ReduceMean(x, [-1]))
        v = ReduceMean(Pow(d, 2), [-1])                   or Mul(d, d)
        n = Div(d, Sqrt(Add(v, epsilon)))                 or Mul(d, Reciprocal(Sqrt(...)))
        y = Add(Mul(n, gamma), beta)                      any operand order

    After::

        y = LayerNormalization(x, gamma, beta; axis=-1, epsilon)

    A LayerNormalization that is already there gets the axis -1 and vectors, and says its epsilon and beta where it
    does not.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        misses = explanation(model)
        for root in [n for n in graph if n.op_type == "Sqrt"]:
            try:
                x, gamma, beta, epsilon, out, nodes = _match(root)
            except NoMatch as no:
                misses.add("layernorm", root, str(no), no.depth)
                continue
            if not may_rewrite(root):
                continue
            w = Writer(graph, source=sources(nodes))
            made = write_norm(w, x, gamma, beta, epsilon)
            made.shape, made.type = out.shape, out.type or made.type
            producer = out.producer()
            assert producer is not None, "the last Add was just matched"
            graph.insert_after(producer, w.nodes)
            take_place(out, made)
            count += 1
        for norm in [n for n in graph if n.op_type == "LayerNormalization"]:
            count += _flatten(graph, norm)
            count += _complete(graph, norm)
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _flatten(graph: ir.Graph, norm: ir.Node) -> bool:
    """Gamma and beta `[1, 1, H]` become vectors."""
    wide = [(i, v) for i, v in enumerate(norm.inputs) if i and v is not None and is_weight(v) and _is_row(v)]
    if not wide or not may_rewrite(norm):
        return False
    for index, value in wide:
        data = constant(value)
        assert data is not None, "a row is small"
        norm.replace_input_with(index, Writer(graph).const(f"{value.name}.vector", data.reshape(-1)))
    return True


def _is_row(value: ir.Value) -> bool:
    data = constant(value)
    return data is not None and data.ndim > 1 and data.size == data.shape[-1]


def _complete(graph: ir.Graph, norm: ir.Node) -> bool:
    gamma = norm.inputs[1]
    if gamma is None or not is_weight(gamma, 1):
        return False
    axis = norm.attributes.get_int("axis", -1)
    counted_from_front = axis != -1 and axis == _last(norm)
    stashed = norm.attributes.get_int("stash_type", 0) == 1
    unsaid = "epsilon" not in norm.attributes
    without_beta = len(norm.inputs) < 3 or norm.inputs[2] is None
    if not (counted_from_front or stashed or unsaid or without_beta) or not may_rewrite(norm):
        return False
    if counted_from_front:
        norm.attributes["axis"] = ir.AttrInt64("axis", -1)
    if stashed:
        del norm.attributes["stash_type"]
    if unsaid:
        norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5)
    if without_beta:
        zeros = np.zeros(size_of(gamma, 0), np.float32)
        norm.resize_inputs(3)
        norm.replace_input_with(2, Writer(graph).const(f"{gamma.name}.zero_beta", zeros))
    return True


def _last(node: ir.Node) -> int:
    """The last axis of a node's input; hidden states of unknown rank have three."""
    x = node.inputs[0]
    return len(x.shape) - 1 if x is not None and x.shape is not None else 2


Match = tuple[ir.Value, ir.Value, ir.Value, float, ir.Value, list[ir.Node]]


def _match(root: ir.Node) -> Match:
    inside = _produced(root.inputs[0], "Add", "under the Sqrt there is no Add(variance, epsilon)", 0)
    variance, epsilon = _with_scalar(inside)
    if epsilon is None or not 0 <= epsilon < 0.1:
        raise NoMatch(f"epsilon is not a small constant (found {epsilon})", 1)
    mean_square = _produced(variance, "ReduceMean", "the variance is not a ReduceMean", 2)
    _last_axis(mean_square, 2)
    square = mean_square.inputs[0].producer() if mean_square.inputs[0] is not None else None
    difference = square.inputs[0] if square is not None and square.inputs else None
    if square is None or difference is None or not _is_square(square):
        raise NoMatch("the variance is not the mean of a square", 3)
    twin = _difference(difference)
    x, mean = twin.inputs
    average = _produced(mean, "ReduceMean", "the square is not of x minus its mean", 5)
    _last_axis(average, 5)
    if x is None or average.inputs[0] is not x:
        raise NoMatch("the mean that is subtracted is of another value", 6)
    normed, nodes = _normalised(root, x)
    scaled, gamma = _next_with_vector(normed, "Mul", 8)
    shifted, beta = _next_with_vector(scaled.outputs[0], "Add", 9)
    if constant(gamma) is not None and constant(gamma).shape != constant(beta).shape:  # type: ignore[union-attr]
        raise NoMatch("gamma and beta have different sizes", 10)
    chain = [average, twin, square, mean_square, inside, root, *nodes, scaled, shifted]
    return x, gamma, beta, epsilon, shifted.outputs[0], chain


def _normalised(root: ir.Node, x: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    for use in root.outputs[0].consumers():
        if use.op_type == "Div" and use.inputs[1] is root.outputs[0] and _is_centred(use.inputs[0], x):
            return use.outputs[0], [use]
        if use.op_type in ("Reciprocal", "Div"):
            if use.op_type == "Div" and scalar(use.inputs[0]) != 1.0:
                continue
            for last in use.outputs[0].consumers():
                if last.op_type == "Mul" and any(_is_centred(v, x) for v in last.inputs):
                    return last.outputs[0], [use, last]
    raise NoMatch("x minus its mean is not divided by the Sqrt", 7)


def _is_centred(value: ir.Value | None, x: ir.Value) -> bool:
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Sub" or node.inputs[0] is not x or node.inputs[1] is None:
        return False
    mean = node.inputs[1].producer()
    return mean is not None and mean.op_type == "ReduceMean" and mean.inputs[0] is x


def _difference(value: ir.Value) -> ir.Node:
    return _produced(value, "Sub", "the squared value is not x minus its mean", 4)


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        return scalar(node.inputs[1]) == 2.0
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _with_scalar(node: ir.Node) -> tuple[ir.Value | None, float | None]:
    a, b = node.inputs
    return (a, scalar(b)) if scalar(b) is not None else (b, scalar(a))


def _produced(value: ir.Value | None, op_type: str, complaint: str, depth: int) -> ir.Node:
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type:
        raise NoMatch(f"{complaint} (found {node.op_type if node is not None else 'nothing'})", depth)
    return node


def _last_axis(node: ir.Node, depth: int) -> None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    found = (
        [int(a) for a in axes.reshape(-1)] if axes is not None else list(node.attributes.get_ints("axes", ()))
    )
    if found not in ([-1], [_last(node)]) or node.attributes.get_int("keepdims", 1) != 1:
        raise NoMatch(f"the mean is over axes {found}, not the last one", depth)


def _next_with_vector(value: ir.Value, op_type: str, depth: int) -> tuple[ir.Node, ir.Value]:
    what = {"Mul": "scale gamma", "Add": "shift beta"}[op_type]
    uses = value.consumers()
    if len(uses) != 1 or uses[0].op_type != op_type:
        found = ", ".join(u.op_type for u in uses) or "nothing"
        raise NoMatch(f"no {op_type} with a {what} follows (found {found})", depth)
    for operand in uses[0].inputs:
        if operand is not None and operand is not value and is_weight(operand, 1):
            return uses[0], operand
    raise NoMatch(f"the {what} is not a rank-1 initializer", depth)

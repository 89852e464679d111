"""Hidden states that are kept as matrices `[B * S, K]` get their three axes back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.match import constant, is_weight, size_of
from bqc.ir.probe import Sizes
from bqc.ir.rewrite import drop_dead, sources, take_place

__all__ = ["ImportFlat"]

_ROWWISE = frozenset(
    ("Add", "Sub", "Mul", "Div", "Gelu", "Tanh", "Erf", "Relu", "Identity", "Cast", "Pow", "Sqrt", "Sigmoid")
)


@dataclass(frozen=True)
class ImportFlat(ir.passes.InPlacePass):
    """Take reshapes out of what works on the last axis only.

    Before::

        Reshape(MatMul(Reshape(x, [-1, K]), W), [B, S, N])        each dense layer, or
        h = Reshape(x, [-1, H]); ... ; Reshape(MatMul(h, W), [B, S, heads, d])      the whole encoder

    After::

        MatMul(x, W);  Reshape(MatMul(x, W), [0, 0, heads, d])

    Products with a matrix, norms and arithmetic give the same numbers in the same order for both shapes, so this
    is exact. Whatever else reads a flat value keeps reading it.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        whole: dict[ir.Value, ir.Value] = {}
        count = 0
        for node in list(graph):
            w = Writer(graph, source=sources([node]))
            out = node.outputs[0] if len(node.outputs) == 1 else None
            if out is None or not node.inputs:
                continue
            if node.op_type == "Reshape":
                count += _reshape(graph, w, node, whole)
            elif any(v in whole for v in node.inputs if v is not None) and _rowwise(node, whole):
                inputs = [whole.get(v, v) if v is not None else None for v in node.inputs]
                copy = ir.node(node.op_type, inputs, attributes=dict(node.attributes))
                copy.outputs[0].type = out.type
                copy.metadata_props.update(node.metadata_props)
                graph.insert_after(node, copy)
                whole[out] = copy.outputs[0]
        if count:
            drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _reshape(graph: ir.Graph, w: Writer, node: ir.Node, whole: dict[ir.Value, ir.Value]) -> int:
    x, out = node.inputs[0], node.outputs[0]
    target = _target(node.inputs[1])
    if x is None or target is None:
        return 0
    if x not in whole:
        if (
            len(target) == 2
            and not out.is_graph_output()
            and target[1] is not None
            and target[0] in (None, -1, _tokens(graph))
            and _is_dense(out, target[1])
        ):
            whole[out] = x if _width(x) == target[1] else _three(w, x, target[1])
            graph.insert_after(node, w.nodes)
        return 0
    if not may_rewrite(node) or (out.is_graph_output() and whole[x].is_graph_output()):
        return 0
    inner, width = target[2:], _width(whole[x])
    if len(target) == 3 and target[2] == width:
        _put_for(out, whole[x])
    elif len(target) == 4 and math.prod(n or 0 for n in inner) == width:
        split = w.shared("heads_split", np.array([0, 0, *(n or 0 for n in inner)], np.int64))
        made = w.op("Reshape", whole[x], split)
        graph.insert_after(node, w.nodes)
        _put_for(out, made)
    elif 0 not in target:
        node.replace_input_with(0, whole[x])
    return 1


def _put_for(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():
        take_place(old, new)
    else:
        old.replace_all_uses_with(new)


def _tokens(graph: ir.Graph) -> int | None:
    """`B * S` of a graph that takes one batch size and sequence length only."""
    fixed = Sizes(0, 0).within(graph)
    return fixed.batch * fixed.sequence or None


def _three(w: Writer, x: ir.Value, width: int) -> ir.Value:
    return w.op("Reshape", x, w.shared("heads_merge", np.array([0, 0, width], np.int64)))


def _target(value: ir.Value | None) -> list[int | None] | None:
    """The numbers of a Reshape target, None for those that are computed."""
    known = constant(value)
    if known is not None:
        return [int(n) for n in known.reshape(-1)]
    node = value.producer() if value is not None else None
    if node is not None and node.op_type in ("Cast", "Identity"):
        return _target(node.inputs[0])
    if node is None or node.op_type != "Concat":
        return None
    sizes: list[int | None] = []
    for part in node.inputs:
        number = constant(part)
        if number is not None:
            sizes.extend(int(n) for n in number.reshape(-1))
        else:
            sizes.extend([None] * _count(part))
    return sizes


def _count(part: ir.Value | None) -> int:
    """How many sizes a computed part of a Reshape target is: several where a shape is cut, else one."""
    node = None if part is None else part.producer()
    if node is not None and node.op_type in ("Cast", "Identity"):
        return _count(node.inputs[0])
    if node is not None and node.op_type == "Gather":
        picked = constant(node.inputs[1])
        return 1 if picked is None else picked.size
    if node is None or node.op_type != "Slice":
        return 1
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    if starts is None or ends is None or starts.size != 1 or ends.size != 1:
        return 1
    start, end = int(starts.reshape(())), int(ends.reshape(()))
    return end - start if 0 <= start < end <= 3 else 1


def _is_dense(flat: ir.Value, width: int) -> bool:
    """Is the matrix multiplied with a weight of that many rows?"""
    return any(
        use.op_type in ("MatMul", "Gemm")
        and use.inputs[0] is flat
        and is_weight(use.inputs[1], 2)
        and width in (size_of(use.inputs[1], 0), size_of(use.inputs[1], 1))
        for use in flat.consumers()
    )


def _rowwise(node: ir.Node, whole: dict[ir.Value, ir.Value]) -> bool:
    """Does the node work on rows alone: all operands flat, constant vectors or numbers?"""
    first, rest = node.inputs[0], node.inputs[1:]
    if node.op_type == "MatMul":
        return first in whole and is_weight(rest[0], 2)
    if node.op_type == "LayerNormalization":
        return first in whole and node.attributes.get_int("axis", -1) in (-1, 1)
    small = (v is None or v in whole or is_weight(v, 0) or is_weight(v, 1) for v in node.inputs)
    return node.op_type in _ROWWISE and all(small)


def _width(value: ir.Value, depth: int = 40) -> int | None:
    """The last dimension of a value of three axes, where its producers tell."""
    node = value.producer()
    if node is None or not depth:
        return None
    if node.op_type == "LayerNormalization":
        return size_of(node.inputs[1], 0)
    if node.op_type == "MatMul" and is_weight(node.inputs[1], 2):
        return size_of(node.inputs[1], 1)
    if node.op_type == "Reshape":
        target = _target(node.inputs[1])
        return target[2] if target is not None and len(target) == 3 else None
    if node.op_type in _ROWWISE:
        for operand in node.inputs:
            if operand is not None and not is_weight(operand):
                return _width(operand, depth - 1)
    return None

"""Zero points of static activations move into the bias of the linear that reads them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import drop_dead
from bqc.ops.registry import DOMAIN, OPERATORS
from bqc.passes._graph import attributes_of, constant, produced_by, single_use

__all__ = ["fold_offsets"]


def fold_offsets(model: ir.Model) -> int:
    """Rewrite ``Add(MatMul(Sub(x, offset), W), bias)`` as ``Add(MatMul(x, W), bias - offset * column sums of W)``.

    The offset is that of a StaticQuantize whose exponent is constant. Sums are taken in float64, and the new bias is
    rounded once. Returns how many linears were rewritten.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        add = single_use(node.outputs[0])
        moved = produced_by(node.inputs[0], "Sub")
        if moved is None or add is None or (add.op_type, add.domain) != ("Add", "") or not may_rewrite(node):
            continue
        offset, bias = _offset(moved.inputs[1]), add.inputs[1]
        weight, shift = _matrix(node.inputs[1]), constant(bias)
        if offset is None or weight is None or bias is None or shift is None or shift.ndim != 1:
            continue
        sums = weight.astype(np.float64).sum(axis=0)
        data = (shift.astype(np.float64) - np.float64(offset) * sums).astype(np.float32)
        add.replace_input_with(1, _bias(model.graph, bias, data))
        node.replace_input_with(0, moved.inputs[0])
        count += 1
    if count:
        drop_dead(model)
    return count


def _offset(value: ir.Value | None) -> np.float32 | None:
    """What a StaticQuantize gives as its offset."""
    node = produced_by(value, "StaticQuantize", DOMAIN)
    exponent = None if node is None else constant(node.inputs[1])
    if node is None or exponent is None or value is not node.outputs[2]:
        return None
    row = np.zeros((1, attributes_of(node)["group"] or 1), np.float32)
    result: np.float32 = OPERATORS["StaticQuantize"].reference(row, exponent, **attributes_of(node))[2][0]
    return result


def _matrix(value: ir.Value | None) -> NDArray[np.float32] | None:
    """The float matrix [K, N] of a constant weight."""
    made = None if value is None else value.producer()
    if value is None or made is None:
        return constant(value)
    parts = [constant(part) for part in made.inputs]
    if made.domain != DOMAIN or not made.op_type.endswith("DequantizeTiles") or any(p is None for p in parts):
        return None
    named = {name: given for name, given in attributes_of(made).items() if name != "layout"}
    matrix: NDArray[np.float32] = OPERATORS[made.op_type].reference(*parts, **named)
    return matrix


def _bias(graph: ir.Graph, old: ir.Value, data: NDArray[np.float32]) -> ir.Value:
    """A new initializer: others may read the old one."""
    name = next(
        n
        for i in range(len(graph.initializers) + 1)
        if (n := f"{old.name}.moved{i or ''}") not in graph.initializers
    )
    value = ir.Value(
        name=name,
        type=old.type,
        shape=old.shape,
        const_value=ir.Tensor(data, name=name),
        metadata_props=dict(old.metadata_props),
    )
    graph.register_initializer(value)
    return value

"""Small questions that rules ask about values: constants, linears, and where data comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "Linear",
    "as_linear",
    "constant",
    "data_inputs",
    "has_graphs",
    "is_product",
    "is_transposed",
    "is_weight",
    "only_consumer",
    "rank",
    "scalar",
    "size_of",
    "stored_dtype",
    "walk_back",
]

SMALL = 4096
STORED = "bqc.stored_dtype"
_MOVES_FIRST = frozenset(("Reshape", "Expand", "Slice", "Unsqueeze", "Squeeze", "Split", "Tile", "Pad"))


@dataclass(frozen=True)
class Linear:
    """`out = Add(MatMul(x, weight[K, N]), bias[N])`."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value
    out: ir.Value
    nodes: tuple[ir.Node, ir.Node]


def is_weight(value: ir.Value | None, rank: int | None = None) -> bool:
    """Is it an initializer (of that rank, with elements) and not also a graph input?"""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return False
    return rank is None or (len(value.const_value.shape) == rank and value.const_value.size > 0)


def is_transposed(one: ir.Value, other: ir.Value) -> bool:
    """Are two matrices the same numbers with their axes exchanged?"""
    if size_of(one, 0) != size_of(other, 1) or size_of(one, 1) != size_of(other, 0):
        return False
    first, second = one.const_value, other.const_value
    assert first is not None
    assert second is not None, "size_of has checked"
    return np.array_equal(np.asarray(first.numpy()), np.asarray(second.numpy()).T)


def constant(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    """The contents of a small initializer, else None."""
    if value is None or not is_weight(value) or value.const_value is None or value.const_value.size > SMALL:
        return None
    return np.asarray(value.const_value.numpy())


def scalar(value: ir.Value | None) -> float | None:
    """The number a one-element initializer holds, else None."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def rank(value: ir.Value) -> int | None:
    """The rank where it is known."""
    return None if value.shape is None else len(value.shape)


def size_of(value: ir.Value | None, axis: int) -> int:
    """A static dimension of an initializer."""
    tensor = None if value is None else value.const_value
    assert tensor is not None, "size_of is asked about initializers only"
    return int(tensor.shape.numpy()[axis])


def stored_dtype(value: ir.Value) -> ir.DataType:
    """The type an initializer has in the file, also when import presents it as float32."""
    stored = value.meta.get(STORED)
    if isinstance(stored, ir.DataType):
        return stored
    return value.const_value.dtype if value.const_value is not None else ir.DataType.FLOAT


def as_linear(value: ir.Value | None) -> Linear | None:
    """`value` as the output of a canonical linear, else None."""
    add = None if value is None else value.producer()
    if value is None or add is None or add.op_type != "Add":
        return None
    product, bias = add.inputs
    matmul = None if product is None else product.producer()
    if matmul is None or matmul.op_type != "MatMul" or bias is None or not is_weight(bias, 1):
        return None
    x, weight = matmul.inputs
    if x is None or weight is None or is_weight(x) or not is_weight(weight, 2):
        return None
    return Linear(x, weight, bias, value, (matmul, add))


def is_product(value: ir.Value) -> bool:
    """Is it the product of two activations?"""
    node = value.producer()
    return node is not None and node.op_type == "MatMul" and not any(is_weight(v) for v in node.inputs)


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, None where there are several or it is a graph output."""
    uses = value.consumers()
    return uses[0] if len(uses) == 1 and not value.is_graph_output() else None


def data_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs whose *values* reach the output: nothing for Shape, the data but not the target for Reshape."""
    if node.op_type in ("Shape", "Size", "ConstantOfShape", "Range"):
        return
    for value in node.inputs[:1] if node.op_type in _MOVES_FIRST else node.inputs:
        if value is not None and not is_weight(value):
            yield value


def has_graphs(node: ir.Node) -> bool:
    """Does the node hold graphs of its own (If, Loop, Scan)?"""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def walk_back(value: ir.Value, stop: Callable[[ir.Value], bool], limit: int = 200) -> list[ir.Value]:
    """The values satisfying `stop` that data flows from into `value`, nearest first."""
    found: list[ir.Value] = []
    seen: set[ir.Value] = set()
    queue = [value]
    while queue and len(seen) < limit:
        here = queue.pop(0)
        if here in seen:
            continue
        seen.add(here)
        if stop(here):
            found.append(here)
            continue
        producer = here.producer()
        if producer is not None:
            queue.extend(data_inputs(producer))
    return found

"""Writing graphs: the one place that spells out the canonical form node by node.

`Writer` collects new nodes in order (and registers initializers at once); whoever owns the graph decides
where the nodes go. The functions below it each write one paragraph of docs/canonical-form.md, so that import,
synthetic models and the documentation cannot drift apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.ir.anatomy import EMBEDDING, SOURCE_KEY, label

__all__ = [
    "FLT_MAX",
    "SOURCE_LIMIT",
    "Writer",
    "dims",
    "write_attention_core",
    "write_linear",
    "write_mask",
    "write_norm",
    "write_padded_position_ids",
    "write_position_ids",
    "write_type_ids",
]

FLT_MAX = float(np.finfo(np.float32).max)
SOURCE_LIMIT = 400

Dim = int | str | None
Attribute = int | float | str | Sequence[int]


@dataclass
class Writer:
    """Collects nodes for `graph`; `layer`, `role` and `source` apply to everything written until changed."""

    graph: ir.Graph
    layer: str | None = None
    role: str | None = None
    source: str = ""
    nodes: list[ir.Node] = field(default_factory=list)

    def at(self, layer: str | None, role: str | None) -> Writer:
        """Set the labels of what is written next."""
        self.layer, self.role = layer, role
        return self

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Sequence[Dim] | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Attribute,
    ) -> ir.Value:
        """Append a one-output node of the default domain and return its output, typed `dtype[shape]`."""
        node = ir.node(op_type, inputs, attributes=_attributes(attributes))
        out = node.outputs[0]
        out.type = ir.TensorType(dtype)
        out.shape = None if shape is None else ir.Shape(shape)
        if self.source:
            node.metadata_props[SOURCE_KEY] = self.source[:SOURCE_LIMIT]
        if self.layer is not None and self.role is not None:
            label(node, self.layer, self.role)
        self.nodes.append(node)
        return out

    def const(self, name: str, data: npt.ArrayLike | ir.TensorProtocol) -> ir.Value:
        """Register an initializer under `name` (made unique among all values) and return its value."""
        tensor = data if isinstance(data, ir.TensorProtocol) else ir.tensor(np.asarray(data))
        taken = _taken(self.graph)
        unique = next(n for n in _names(name) if n not in self.graph.initializers and n not in taken)
        sizes = [_plain(d) for d in tensor.shape]
        value = ir.Value(
            name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(sizes), const_value=tensor
        )
        self.graph.register_initializer(value)
        if self.layer is not None and self.role is not None:
            label(value, self.layer, self.role)
        return value

    def shared(self, name: str, data: npt.ArrayLike) -> ir.Value:
        """A small constant without labels: an equal initializer of that name is reused."""
        wanted = np.asarray(data)
        for candidate in _names(name):
            known = self.graph.initializers.get(candidate)
            if known is None and candidate in _taken(self.graph):
                continue
            if known is None:
                break
            array = None if known.const_value is None else known.const_value.numpy()
            if array is not None and array.dtype == wanted.dtype and np.array_equal(array, wanted):
                return known
        return Writer(self.graph).const(name, wanted)


def dims(value: ir.Value) -> list[Dim] | None:
    """The shape of `value` as plain integers and symbol names."""
    return None if value.shape is None else [_plain(d) for d in value.shape]


def write_linear(w: Writer, x: ir.Value, weight: ir.Value, bias: ir.Value) -> ir.Value:
    """`Add(MatMul(x[..., K], W[K, N]), b[N])`."""
    lead, matrix = dims(x), dims(weight)
    shape = None if lead is None or matrix is None else [*lead[:-1], matrix[1]]
    return w.op("Add", w.op("MatMul", x, weight, shape=shape), bias, shape=shape)


def write_norm(w: Writer, x: ir.Value, gamma: ir.Value, beta: ir.Value, epsilon: float) -> ir.Value:
    """`LayerNormalization(x, gamma, beta; axis=-1, epsilon)`."""
    return w.op("LayerNormalization", x, gamma, beta, shape=dims(x), axis=-1, epsilon=float(epsilon))


def write_mask(w: Writer, attention_mask: ir.Value) -> ir.Value:
    """The additive key-padding bias `[B, 1, 1, S]` of `attention_mask[B, S]`: 0 where 1, -FLT_MAX where 0."""
    w.at(EMBEDDING, "attention.mask")
    batch, sequence = _batch_sequence(attention_mask)
    m = w.op("Cast", attention_mask, shape=[batch, sequence], to=int(ir.DataType.FLOAT))
    four = [batch, 1, 1, sequence]
    m4 = w.op("Unsqueeze", m, w.shared("mask_axes", np.array([1, 2], np.int64)), shape=four)
    off = w.op("Sub", w.shared("mask_one", np.float32(1)), m4, shape=four)
    return w.op("Mul", off, w.shared("mask_low", np.float32(-FLT_MAX)), shape=four)


def write_type_ids(w: Writer, input_ids: ir.Value) -> ir.Value:
    """All-zero token types `[B, S]` int64 for models that have no such input."""
    w.at(EMBEDDING, "embedding.type")
    batch, sequence = _batch_sequence(input_ids)
    sizes = w.op("Shape", input_ids, shape=[2], dtype=ir.DataType.INT64)
    zero = w.shared("type_zero", np.zeros(1, np.int64))
    return w.op("Expand", zero, sizes, shape=[batch, sequence], dtype=ir.DataType.INT64)


def write_position_ids(w: Writer, input_ids: ir.Value) -> ir.Value:
    """Positions `[1, S]` int64 = 0 .. S-1."""
    w.at(EMBEDDING, "embedding.position")
    _, sequence = _batch_sequence(input_ids)
    i64 = ir.DataType.INT64
    length = w.op("Shape", input_ids, shape=[1], dtype=i64, start=1, end=2)
    limit = w.op("Squeeze", length, w.shared("position_axis", np.zeros(1, np.int64)), shape=[], dtype=i64)
    zero, one = w.shared("position_first", np.int64(0)), w.shared("position_step", np.int64(1))
    steps = w.op("Range", zero, limit, one, shape=[sequence], dtype=i64)
    axis = w.shared("position_axis", np.zeros(1, np.int64))
    return w.op("Unsqueeze", steps, axis, shape=[1, sequence], dtype=i64)


def write_padded_position_ids(w: Writer, input_ids: ir.Value, pad: int) -> ir.Value:
    """Positions `[B, S]` int64 that count tokens from `pad + 1` and are `pad` at padding, as RoBERTa has them."""
    w.at(EMBEDDING, "embedding.position")
    shape = _batch_sequence(input_ids)
    i64 = ir.DataType.INT64
    ids = (
        input_ids if input_ids.dtype is i64 else w.op("Cast", input_ids, shape=shape, dtype=i64, to=int(i64))
    )
    padding = w.shared("position_padding", np.int64(pad))
    same = w.op("Equal", ids, padding, shape=shape, dtype=ir.DataType.BOOL)
    kept = w.op(
        "Cast", w.op("Not", same, shape=shape, dtype=ir.DataType.BOOL), shape=shape, dtype=i64, to=int(i64)
    )
    count = w.op("CumSum", kept, w.shared("position_step", np.int64(1)), shape=shape, dtype=i64)
    at = w.op("Mul", count, kept, shape=shape, dtype=i64)
    return w.op("Add", at, padding, shape=shape, dtype=i64)


def write_attention_core(
    w: Writer,
    layer: str | None,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    mask_bias: ir.Value | None,
    *,
    heads: int,
    head_dim: int,
    scale: float,
    position_bias: ir.Value | None = None,
) -> ir.Value:
    """From the three projections `[B, S, H]` to the merged context `[B, S, H]`.

    `position_bias` `[1|B, 1|h, S, S]` is added to the scores before the mask is.
    """

    def role(name: str) -> Writer:
        return w.at(layer, name if layer is not None else None)

    batch, sequence = _batch_sequence(query)
    hidden = heads * head_dim
    split = w.shared("heads_split", np.array([0, 0, heads, head_dim], np.int64))
    merge = w.shared("heads_merge", np.array([0, 0, hidden], np.int64))
    parts = [batch, sequence, heads, head_dim]
    headed = [batch, heads, sequence, head_dim]
    square = [batch, heads, sequence, sequence]
    role("attention.query")
    q4 = w.op("Transpose", w.op("Reshape", query, split, shape=parts), shape=headed, perm=[0, 2, 1, 3])
    role("attention.key")
    turned = [batch, heads, head_dim, sequence]
    k4 = w.op("Transpose", w.op("Reshape", key, split, shape=parts), shape=turned, perm=[0, 2, 3, 1])
    role("attention.value")
    v4 = w.op("Transpose", w.op("Reshape", value, split, shape=parts), shape=headed, perm=[0, 2, 1, 3])
    role("attention.scores")
    factor = w.shared("attention_scale", np.float32(scale))
    s = w.op("Mul", w.op("MatMul", q4, k4, shape=square), factor, shape=square)
    for bias in (position_bias, mask_bias):
        if bias is not None:
            s = w.op("Add", s, bias, shape=square)
    role("attention.softmax")
    p = w.op("Softmax", s, shape=square, axis=-1)
    role("attention.context")
    c4 = w.op("MatMul", p, v4, shape=headed)
    turned_back = w.op("Transpose", c4, shape=parts, perm=[0, 2, 1, 3])
    return w.op("Reshape", turned_back, merge, shape=[batch, sequence, hidden])


def _taken(graph: ir.Graph) -> set[str | None]:
    return {v.name for v in graph.inputs} | {v.name for node in graph for v in node.outputs}


def _names(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{n}" for n in itertools.count(1))


def _attributes(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {key: list(v) if isinstance(v, (list, tuple)) else v for key, v in attributes.items()}


def _plain(dim: object) -> Dim:
    return dim if isinstance(dim, int) else getattr(dim, "value", None)


def _batch_sequence(value: ir.Value) -> tuple[Dim, Dim]:
    shape = dims(value)
    return (None, None) if shape is None or len(shape) < 2 else (shape[0], shape[1])

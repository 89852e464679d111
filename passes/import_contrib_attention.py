"""Attention and MultiHeadAttention of ONNX Runtime become linears, products and a Softmax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, dims, write_attention_core
from bqc.ir.explain import NoMatch
from bqc.ir.match import is_weight, size_of
from bqc.ir.notes import note
from bqc.ir.padding import write_first_tokens
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.passes._contrib import apply, fed, refuse_unless
from bqc.passes.import_weights import lazily

__all__ = ["ImportContribAttention"]

_PARTS = ("query", "key", "value")
_FILTER = -10000.0
_WHOLE = "bqc.whole_mask"
_SIZES = Sizes(3, 5)
_LENGTHS = "the optimizer that wrote this file made the mask right-padding lengths; kept so"


@dataclass(frozen=True)
class ImportContribAttention(ir.passes.InPlacePass):
    """Write fused attentions out; `import-attention` then looks at them as at any other.

    Before::

        com.microsoft.Attention(x, W[K, 3H], b[3H], mask; num_heads)
        com.microsoft.MultiHeadAttention(q, k, v, b[3H]?, key_padding_mask?, attention_bias?; num_heads)

    After::

        q, k, v = Add(MatMul(x, W[:, part]), b[part])
        Softmax(q4 k4 * scale + (1 - mask) * mask_filter_value + attention_bias) v4

    Masks: 0/1 `[B, S]`; ends `[B]` or ends and starts `[2B]` of the valid keys. Refused, each by name: caches (past,
    present), unidirectional and rotary attention, masks per query, packed or cross-attention layouts.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(model, "contrib-attention", {"Attention": _attention, "MultiHeadAttention": _multi_head})


def _attention(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    get = node.attributes.get_int
    x, weight, bias, mask, past, extra = (fed(node, i) for i in range(6))
    refuse_unless(past is None, "it has a cache of past keys")
    refuse_unless(not get("unidirectional", 0), "it is unidirectional (a decoder)")
    refuse_unless(not get("do_rotary", 0), "it rotates queries and keys")
    refuse_unless(is_weight(weight, 2), "its weights are no constant matrix")
    refuse_unless(bias is None or is_weight(bias, 1), "its bias is no constant vector")
    assert x is not None
    assert weight is not None, "just checked"
    hidden, rest = divmod(size_of(weight, 1), 3)
    sizes = list(node.attributes.get_ints("qkv_hidden_sizes", ()) or ())
    refuse_unless(not rest and sizes in ([], [hidden] * 3), f"query, key and value differ in size: {sizes}")
    projections = []
    for n, part in enumerate(_PARTS):
        product = w.op("MatMul", x, _columns(w.graph, weight, n * hidden, hidden, part))
        if bias is not None:
            product = w.op("Add", product, _columns(w.graph, bias, n * hidden, hidden, part))
        projections.append(product)
    return [_core(w, node, x, projections, hidden, mask, extra)]


def _multi_head(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    query, key, value, bias, mask, extra = (fed(node, i) for i in range(6))
    refuse_unless(all(fed(node, i) is None for i in (6, 7)), "it has a cache of past keys")
    refuse_unless(not node.attributes.get_int("unidirectional", 0), "it is unidirectional (a decoder)")
    refuse_unless(key is not None and value is not None, "query, key and value are packed into one input")
    refuse_unless(bias is None or is_weight(bias, 1), "its bias is no constant vector")
    assert query is not None
    projections, hidden = [v for v in (query, key, value) if v is not None], _width(query)
    if bias is not None:
        hidden, rest = divmod(size_of(bias, 0), 3)
        refuse_unless(not rest, "query, key and value differ in size")
        projections = [
            w.op("Add", x, _columns(w.graph, bias, n * hidden, hidden, part), shape=dims(x))
            for n, (x, part) in enumerate(zip(projections, _PARTS, strict=True))
        ]
    refuse_unless(hidden is not None, "the width of its query is not known")
    return [_core(w, node, query, projections, hidden or 0, mask, extra)]


def _width(value: ir.Value) -> int | None:
    """The last dimension of a linear's output, from its weight or its declared shape."""
    shape = dims(value)
    if shape and isinstance(shape[-1], int):
        return shape[-1]
    node = value.producer()
    while node is not None and node.op_type in ("Add", "MatMul"):
        weight = next((v for v in node.inputs if is_weight(v)), None)
        if weight is not None and weight.const_value is not None and len(weight.const_value.shape):
            return size_of(weight, -1)
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return None


def _columns(graph: ir.Graph, weight: ir.Value, start: int, width: int, part: str) -> ir.Value:
    """A range of the last axis of a constant, as an initializer that is read when it is needed."""
    tensor = weight.const_value
    assert tensor is not None, "only called for constants"
    sizes = [*(int(n) for n in tensor.shape.numpy()[:-1]), width]
    made = lazily(weight, tensor.dtype, sizes, lambda a: a[..., start : start + width])
    base = f"{weight.name}.{part}"
    made.name = next(
        n for n in (base, *(f"{base}.{i}" for i in range(1, 1000))) if n not in graph.initializers
    )
    graph.register_initializer(made)
    return made


def _core(
    w: Writer,
    node: ir.Node,
    x: ir.Value,
    projections: list[ir.Value],
    hidden: int,
    mask: ir.Value | None,
    extra: ir.Value | None,
) -> ir.Value:
    heads = node.attributes.get_int("num_heads", 0) or 0
    refuse_unless(heads > 0 and hidden % heads == 0, f"{heads} heads do not divide the hidden size {hidden}")
    scale = node.attributes.get_float("scale", 0.0) or (hidden // heads) ** -0.5
    added = (
        None if mask is None else _bias(w, mask, x, node.attributes.get_float("mask_filter_value", _FILTER))
    )
    if extra is not None:
        added = extra if added is None else w.op("Add", added, extra)
    q, k, v = projections
    made = write_attention_core(w, None, q, k, v, added, heads=heads, head_dim=hidden // heads, scale=scale)
    made.shape = None
    return made


def _bias(w: Writer, mask: ir.Value, x: ir.Value, low: float | None) -> ir.Value:
    """The additive bias `[B, 1, 1, S]` of a 0/1 mask or of lengths."""
    shape = _probed_shape(w.graph, mask)
    if len(shape) == 1:
        mask = _whole(w, mask, shape[0], x)
    else:
        refuse_unless(len(shape) == 2, f"its mask is per query ({len(shape)}-D), not per key")
    m = w.op("Cast", mask, to=int(ir.DataType.FLOAT))
    m4 = w.op("Unsqueeze", m, w.shared("mask_axes", np.array([1, 2], np.int64)))
    off = w.op("Sub", w.shared("mask_one", np.float32(1)), m4)
    return w.op("Mul", off, w.shared("mask_filter", np.float32(_FILTER if low is None else low)))


def _whole(w: Writer, mask: ir.Value, size: int, x: ir.Value) -> ir.Value:
    """The mask `[B, S]` of lengths; layers that read the same lengths share it."""
    known = mask.meta.get(_WHOLE)
    if isinstance(known, ir.Value):
        return known
    batch = _SIZES.within(w.graph).batch
    refuse_unless(size in (batch, 2 * batch), "its mask holds cumulated lengths (3 B + 2 numbers)")
    ends, starts = mask, None
    if size == 2 * batch:
        i32 = ir.DataType.INT32
        pair = w.op("Reshape", mask, w.shared("mask_halves", np.array([2, -1], np.int64)), dtype=i32)
        picked = [w.shared(f"mask_half_{i}", np.int64(i)) for i in range(2)]
        ends, starts = (w.op("Gather", pair, i, dtype=i32, axis=0) for i in picked)
    note(w.graph, _LENGTHS)
    made = mask.meta[_WHOLE] = write_first_tokens(w, _ids(w.graph) or x, ends, starts)
    return made


def _probed_shape(graph: ir.Graph, mask: ir.Value) -> tuple[int, ...]:
    """The shape for `_SIZES`, or for the sizes that the graph is fixed to."""
    sizes = _SIZES.within(graph)
    if mask.is_graph_input():
        shape = dims(mask)
        if shape is None:
            raise NoMatch("the rank of its mask is not declared", 4)
        if len(shape) == 1:
            if isinstance(shape[0], int):
                return (shape[0],)
            named = str(shape[0]).replace(" ", "")
            return (sizes.batch * (1 + (named.startswith("2*") or named.endswith("*2"))),)
        return (1,) * len(shape)
    try:
        return Probe([mask]).run({}, sizes)[0].shape
    except ProbeError as error:
        raise NoMatch(f"its mask is not a small computation: {error}", 4) from error


def _ids(graph: ir.Graph) -> ir.Value | None:
    """An input `[B, S]` to read the sequence length of."""
    return next((v for v in graph.inputs if v.shape is not None and len(v.shape) == 2), None)

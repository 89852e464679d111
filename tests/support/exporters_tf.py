"""Graphs as tf2onnx and keras2onnx write them, by hand, with the weights of any float BERT.

Three styles, after what TensorFlow's BERTs look like once converted:

- `keras`: dense layers as Reshape, MatMul, Reshape (tensordot); norms from moments; head counts in Concat'ed shapes.
- `matrix`: the first BERT, whose hidden states are matrices `[B * S, H]`; token types by one-hot product.
- `einsum`: Keras' MultiHeadAttention and EinsumDense, weights `[K, heads, d]`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bqc.ir import import_model
from bqc.ir.anatomy import nodes_of
from tests.support.families import CannotExport

__all__ = ["EXPORTERS", "convert"]

I32, I64, F32 = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT


class Graph:
    """Nodes in the making; `opset` decides how axes are given, `pools` how means are written."""

    def __init__(self, opset: int, pools: bool = False) -> None:
        self.opset = opset
        self.pools = pools
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"model/{op_type}_{len(self.nodes)}:0"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name[:-2], **attributes))
        return name

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        array = np.asarray(value, dtype)
        for name, known in self.constants.items():
            if known.dtype == array.dtype and known.shape == array.shape and np.array_equal(known, array):
                return name
        name = f"const_fold_opt__{len(self.constants)}"
        self.constants[name] = array
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def unsqueeze(self, x: str, *axes: int) -> str:
        return (
            self.op("Unsqueeze", x, axes=axes)
            if self.opset < 13
            else self.op("Unsqueeze", x, self.ints(*axes))
        )

    def squeeze(self, x: str, *axes: int) -> str:
        return (
            self.op("Squeeze", x, axes=axes) if self.opset < 13 else self.op("Squeeze", x, self.ints(*axes))
        )

    def size(self, x: str, axis: int) -> str:
        """Dimension `axis` of `x` as `[1]` int64, by the chain of casts that tf2onnx leaves."""
        shape = self.op("Cast", self.op("Shape", x), to=I32)
        part = self.op("Slice", shape, self.ints(axis), self.ints(axis + 1), self.ints(0))
        number = self.op("Cast", self.squeeze(part, 0), to=I64)
        return self.unsqueeze(number, 0)

    def sizes(self, x: str) -> str:
        """The first two dimensions of `x` as `[2]` int64."""
        shape = self.op("Cast", self.op("Shape", x), to=I32)
        return self.op("Cast", self.op("Gather", shape, self.const([0, 1], np.int32), axis=0), to=I64)

    def reshape(self, x: str, *sizes: int | str) -> str:
        """Numbers and `[1]` values, concatenated."""
        parts = [s if isinstance(s, str) else self.ints(s) for s in sizes]
        target = self.op("Cast", self.op("Concat", *parts, axis=0), to=I32)
        return self.op("Reshape", x, self.op("Cast", target, to=I64))

    def mean(self, x: str) -> str:
        """Over the last axis; of three axes tf2onnx pools instead."""
        if self.pools:
            return self.op("GlobalAveragePool", x)
        return self.op("ReduceMean", x, axes=[-1], keepdims=1)


class Weights:
    """Arrays of an encoder by layer and role, from its canonical form."""

    def __init__(self, path: Path) -> None:
        self.model, summary = import_model(path)
        self.encoder = summary.encoder

    def linear(self, layer: str, role: str) -> tuple[np.ndarray, np.ndarray]:
        nodes = list(nodes_of(self.model, layer, role))
        product = next(n for n in nodes if n.op_type == "MatMul")
        return self._array(product, 1), self._array(next(n for n in nodes if n.op_type == "Add"), 1)

    def norm(self, layer: str, role: str) -> tuple[np.ndarray, np.ndarray]:
        node = next(n for n in nodes_of(self.model, layer, role) if n.op_type == "LayerNormalization")
        return self._array(node, 1), self._array(node, 2)

    def table(self, role: str) -> np.ndarray:
        return self._array(next(n for n in nodes_of(self.model, role=role) if n.op_type == "Gather"), 0)

    def _array(self, node: Any, index: int) -> np.ndarray:
        return np.asarray(node.inputs[index].const_value.numpy())


def layer_norm(g: Graph, x: str, gamma: np.ndarray, beta: np.ndarray, form: str) -> str:
    mean = g.mean(x)
    centred = g.op("Sub", x, mean)
    variance = g.mean(g.op("Mul", centred, g.op("Sub", x, mean) if form == "moments" else centred))
    root = g.op("Sqrt", g.op("Add", variance, g.const(1e-12)))
    if form == "direct":
        return g.op("Add", g.op("Mul", g.const(gamma), g.op("Div", centred, root)), g.const(beta))
    factor = g.op("Mul", g.op("Reciprocal", root), g.const(gamma))
    shift = g.op("Sub", g.const(beta), g.op("Mul", mean, factor))
    return g.op("Add", g.op("Mul", x, factor), shift)


def gelu(g: Graph, x: str, kind: str) -> str:
    if kind == "tanh":
        cubic = g.op("Mul", g.op("Pow", x, g.const(3.0)), g.const(0.044715))
        inner = g.op("Mul", g.op("Add", x, cubic), g.const(np.sqrt(2 / np.pi)))
        return g.op("Mul", x, g.op("Mul", g.op("Add", g.op("Tanh", inner), g.const(1.0)), g.const(0.5)))
    gate = g.op("Add", g.op("Erf", g.op("Div", x, g.const(np.sqrt(2)))), g.const(1.0))
    return g.op("Mul", g.op("Mul", x, g.const(0.5)), gate)


def dense(g: Graph, x: str, weight: np.ndarray, bias: np.ndarray, style: str) -> str:
    if style == "matrix":
        return g.op("Add", g.op("MatMul", x, g.const(weight)), g.const(bias))
    if style == "einsum":
        return g.op("Add", g.op("Einsum", x, g.const(weight), equation="abc,cd->abd"), g.const(bias))
    flat = g.reshape(x, -1, weight.shape[0])
    product = g.op("MatMul", flat, g.const(weight))
    lead = [g.sizes(x)] if g.pools else [g.size(x, 0), g.size(x, 1)]
    wide = g.reshape(product, *lead, weight.shape[1])
    return g.op("Add", wide, g.const(bias))


def attention(g: Graph, h: str, w: Weights, layer: str, bias: str, ids: str, style: str) -> str:
    e = w.encoder
    parts = [w.linear(layer, f"attention.{name}") for name in ("query", "key", "value")]
    batch, sequence = g.size(ids, 0), g.size(ids, 1)
    if style == "einsum":
        q, k, v = (
            g.op(
                "Add",
                g.op("Einsum", h, g.const(m.reshape(-1, e.heads, e.head_dim)), equation="abc,cde->abde"),
                g.const(b.reshape(e.heads, e.head_dim)),
            )
            for m, b in parts
        )
        q = g.op("Mul", q, g.const(e.head_dim**-0.5))
        scores = g.op("Einsum", k, q, equation="aecd,abcd->acbe")
        p = g.op("Softmax", g.op("Add", scores, bias), axis=-1 if g.opset >= 13 else 3)
        context = g.op("Einsum", p, v, equation="acbe,aecd->abcd")
        m, b = w.linear(layer, "attention.output")
        out = g.op("Einsum", context, g.const(m.reshape(e.heads, e.head_dim, -1)), equation="abcd,cde->abe")
        return g.op("Add", out, g.const(b))
    q, k, v = (
        g.op(
            "Transpose",
            g.reshape(dense(g, h, m, b, style), batch, sequence, e.heads, e.head_dim),
            perm=[0, 2, 1, 3],
        )
        for m, b in parts
    )
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    if style == "matrix":
        scaled = g.op("Mul", scores, g.const(e.head_dim**-0.5))
    else:
        scaled = g.op("Div", scores, g.op("Sqrt", g.op("Cast", g.const(e.head_dim, np.int32), to=F32)))
    p = g.op("Softmax", g.op("Add", scaled, bias), axis=-1 if g.opset >= 13 else 3)
    context = g.op("Transpose", g.op("MatMul", p, v), perm=[0, 2, 1, 3])
    if style == "matrix":
        merged = g.reshape(context, g.op("Mul", batch, sequence), e.hidden)
    else:
        merged = g.reshape(context, batch, -1, e.hidden)
    return dense(g, merged, *w.linear(layer, "attention.output"), style)


def embedding(g: Graph, w: Weights, ids: str, types: str | None, style: str) -> str:
    word, place = w.table("embedding.word"), w.table("embedding.position")
    batch, sequence, width = g.size(ids, 0), g.size(ids, 1), word.shape[1]
    if style == "matrix":
        flat = g.reshape(ids, -1)
        words = g.reshape(g.op("Gather", g.const(word), flat), batch, sequence, width)
        rows = g.op("Slice", g.const(place), g.ints(0), sequence, g.ints(0))
        places = g.reshape(rows, 1, sequence, width)
    else:
        words = g.op("Gather", g.const(word), ids)
        limit = g.op("Cast", g.squeeze(sequence, 0), to=I32)
        steps = g.op("Range", g.const(0, np.int32), limit, g.const(1, np.int32))
        places = g.op("Gather", g.const(place), g.unsqueeze(steps, 0))
    placed = g.op("Add", words, places)
    if types is None:
        return placed
    kind = w.table("embedding.type")
    if style == "matrix":
        hot = g.op("OneHot", g.reshape(types, -1), g.const(len(kind), np.int32), g.const([0.0, 1.0]), axis=-1)
        kinds = g.reshape(g.op("MatMul", hot, g.const(kind)), batch, sequence, width)
    else:
        kinds = g.op("Gather", g.const(kind), types)
    return g.op("Add", placed, kinds)


def convert(
    path: Path,
    style: str = "keras",
    opset: int = 11,
    kind: str = "",
    form: str = "moments",
    wide: bool = False,
    pools: bool = False,
) -> Path:
    """Write the encoder of `path` again as `style`, a classifier or bare; inputs are int32, int64 if `wide`.

    With `pools` norms take means by GlobalAveragePool, and dense layers cut the sizes of a shape in one piece, as
    tf2onnx 1.17 does.
    """
    w, g = Weights(path), Graph(opset, pools)
    e = w.encoder
    if any(nodes_of(w.model, role="attention.bias")):
        raise CannotExport("TensorFlow styles have no bias of relative positions")
    if e.head and not any(nodes_of(w.model, "head", "pooler")):
        raise CannotExport("TensorFlow styles classify by a pooler, or have no head")
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if e.types else [])]
    ids, mask, *kinds = (g.op("Cast", name, to=I32) if wide else name for name in names)
    types = kinds[0] if kinds else None
    x = layer_norm(g, embedding(g, w, ids, types, style), *w.norm("embedding", "embedding.norm"), form)
    if e.embedding:
        x = dense(g, x, *w.linear("embedding", "embedding.projection"), style)
    if style == "matrix":
        spread = g.op("Cast", g.reshape(mask, g.size(ids, 0), 1, g.size(ids, 1)), to=F32)
        ones = g.op("Expand", g.const(1.0), g.op("Concat", g.size(ids, 0), g.size(ids, 1), g.ints(1), axis=0))
        keep = g.unsqueeze(g.op("Mul", ones, spread), 1)
        h = g.reshape(x, -1, e.hidden)
    else:
        keep = g.op("Cast", g.unsqueeze(mask, 1, 2), to=F32)
        h = x
    bias = g.op("Mul", g.op("Sub", g.const(1.0), keep), g.const(-10000.0))
    for i in map(str, range(e.layers)):
        a = attention(g, h, w, i, bias, ids, style)
        a = layer_norm(g, g.op("Add", a, h), *w.norm(i, "attention.norm"), form)
        f = gelu(g, dense(g, a, *w.linear(i, "ffn.intermediate"), style), kind or e.gelu)
        y = dense(g, f, *w.linear(i, "ffn.output"), style)
        h = layer_norm(g, g.op("Add", y, a), *w.norm(i, "ffn.norm"), form)
    if style == "matrix":
        h = g.reshape(h, g.size(ids, 0), g.size(ids, 1), e.hidden)
    outputs = (
        [("logits", ["batch", e.head])]
        if e.head
        else [("last_hidden_state", ["batch", "sequence", e.hidden])]
    )
    if e.head:
        first = g.op("Slice", h, g.ints(0, 0), g.ints(2**31 - 1, 1), g.ints(0, 1))
        pooled = dense(g, g.squeeze(first, 1), *w.linear("head", "pooler"), "matrix")
        h = dense(g, g.op("Tanh", pooled), *w.linear("head", "head"), "matrix")
    g.nodes.append(helper.make_node("Identity", [h], [outputs[0][0]]))
    graph = helper.make_graph(
        g.nodes,
        "tf2onnx",
        [helper.make_tensor_value_info(n, I64 if wide else I32, ["batch", "sequence"]) for n in names],
        [helper.make_tensor_value_info(n, F32, shape) for n, shape in outputs],
        [numpy_helper.from_array(a, n) for n, a in g.constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6 + (opset > 11)
    )
    target = path.with_name(
        f"{path.stem}.tf-{style}-{opset}-{kind or e.gelu}-{form}{'-wide' * wide}{'-pools' * pools}.onnx"
    )
    onnx.save(model, target)
    return target


EXPORTERS: dict[str, Callable[[Path], Path]] = {
    "tf-keras-11": convert,
    "tf-keras-12": partial(convert, opset=12, form="direct"),
    "tf-keras-13": partial(convert, opset=13, form="once"),
    "tf-pools-13": partial(convert, opset=13, pools=True),
    "tf-matrix-11": partial(convert, style="matrix"),
    "tf-matrix-13": partial(convert, style="matrix", opset=13),
    "tf-einsum-12": partial(convert, style="einsum", opset=12),
    "tf-einsum-13": partial(convert, style="einsum", opset=13),
}
"""From the path of a float model to the path of the TensorFlow-like one, written beside it."""

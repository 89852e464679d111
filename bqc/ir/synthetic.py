"""A BERT in canonical form from random weights, without torch: for tests, sizes and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import EMBEDDING, HEAD, record
from bqc.ir.build import (
    Writer,
    write_attention_core,
    write_linear,
    write_mask,
    write_norm,
    write_position_ids,
    write_type_ids,
)

__all__ = ["canonical_bert"]

EPSILON = 1e-12

Array = np.ndarray[Any, np.dtype[np.float32]]


def canonical_bert(
    layers: int = 2,
    hidden: int = 32,
    heads: int = 2,
    ffn: int = 64,
    vocab: int = 100,
    positions: int = 64,
    types: int = 2,
    head: Literal["classification", "masked-lm", "none"] = "classification",
    gelu: Literal["none", "tanh"] = "none",
    seed: int = 0,
    *,
    labels: int = 2,
    mask: bool = True,
    token_types: bool = True,
    lazy: bool = False,
) -> ir.Model:
    """An annotated canonical encoder, opset 21, IR version 10.

    Inputs `input_ids`, `attention_mask`, `token_type_ids`: int64 `[batch, sequence]`. Output float32
    `logits[batch, labels]` (with pooler), `logits[batch, sequence, vocab]` (of the word table transposed) or
    `last_hidden_state[batch, sequence, hidden]`. Weights are normal
    with deviation 0.05 and one larger channel each, like trained ones; the same arguments give the same bits.
    ``lazy`` makes each matrix only when it is read, so that a model larger than memory can be saved.
    """
    rng = np.random.default_rng(seed)
    names = ["input_ids"] + ["attention_mask"] * mask + ["token_type_ids"] * token_types
    inputs = {name: _input(name) for name in names}
    graph = ir.Graph(list(inputs.values()), [], nodes=[], opset_imports={"": 21}, name="bert")
    w = Writer(graph)
    mask_bias = write_mask(w, inputs["attention_mask"]) if mask else None

    def weight(name: str, shape: Sequence[int], make: Callable[[], Array]) -> ir.Value:
        if not lazy:
            return w.const(name, make())
        tensor = ir.LazyTensor(lambda: ir.tensor(make()), ir.DataType.FLOAT, ir.Shape(shape), name=name)
        return w.const(name, tensor)

    def matrix(name: str, *shape: int) -> ir.Value:
        if not lazy:
            return weight(name, shape, lambda: _matrix(rng, *shape))
        own = int(rng.integers(1 << 32))
        return weight(name, shape, lambda: _matrix(np.random.default_rng(own), *shape))

    def transposed(name: str, of: ir.Value, *shape: int) -> ir.Value:
        def make() -> Array:
            assert of.const_value is not None, "made by matrix"
            return np.ascontiguousarray(of.const_value.numpy().T)

        return weight(name, shape, make)

    def vector(name: str, n: int, centre: float = 0.0) -> ir.Value:
        return w.const(name, rng.standard_normal(n, dtype=np.float32) * np.float32(0.05) + np.float32(centre))

    def linear(name: str, x: ir.Value, n_in: int, n_out: int) -> ir.Value:
        return write_linear(w, x, matrix(f"{name}.weight", n_in, n_out), vector(f"{name}.bias", n_out))

    def norm(name: str, x: ir.Value) -> ir.Value:
        return write_norm(
            w, x, vector(f"{name}.weight", hidden, 1.0), vector(f"{name}.bias", hidden), EPSILON
        )

    wide: Sequence[int | str] = ["batch", "sequence", hidden]
    ids = inputs["input_ids"]
    w.at(EMBEDDING, "embedding.word")
    words = matrix("embeddings.word", vocab, hidden)
    word = w.op("Gather", words, ids, shape=wide, axis=0)
    type_ids = inputs["token_type_ids"] if token_types else write_type_ids(w, ids)
    w.at(EMBEDDING, "embedding.type")
    kind = w.op("Gather", matrix("embeddings.type", types, hidden), type_ids, shape=wide, axis=0)
    position_ids = write_position_ids(w, ids)
    w.at(EMBEDDING, "embedding.position")
    table = matrix("embeddings.position", positions, hidden)
    place = w.op("Gather", table, position_ids, shape=[1, "sequence", hidden], axis=0)
    w.at(EMBEDDING, "embedding.sum")
    x = w.op("Add", w.op("Add", word, kind, shape=wide), place, shape=wide)
    w.at(EMBEDDING, "embedding.norm")
    h = norm("embeddings.norm", x)

    for i in map(str, range(layers)):
        at = f"layer.{i}"
        w.at(i, "attention.query")
        q = linear(f"{at}.attention.query", h, hidden, hidden)
        w.at(i, "attention.key")
        k = linear(f"{at}.attention.key", h, hidden, hidden)
        w.at(i, "attention.value")
        v = linear(f"{at}.attention.value", h, hidden, hidden)
        d = hidden // heads
        c = write_attention_core(w, i, q, k, v, mask_bias, heads=heads, head_dim=d, scale=d**-0.5)
        w.at(i, "attention.output")
        o = linear(f"{at}.attention.output", c, hidden, hidden)
        w.at(i, "attention.norm")
        a = norm(f"{at}.attention.norm", w.op("Add", o, h, shape=wide))
        w.at(i, "ffn.intermediate")
        f = linear(f"{at}.ffn.intermediate", a, hidden, ffn)
        w.at(i, "ffn.gelu")
        g = w.op("Gelu", f, shape=["batch", "sequence", ffn], approximate=gelu)
        w.at(i, "ffn.output")
        y = linear(f"{at}.ffn.output", g, ffn, hidden)
        w.at(i, "ffn.norm")
        h = norm(f"{at}.ffn.norm", w.op("Add", y, a, shape=wide))

    if head == "classification":
        w.at(HEAD, "pooler")
        first = w.op("Gather", h, w.shared("first_token", np.int64(0)), shape=["batch", hidden], axis=1)
        pooled = w.op("Tanh", linear("pooler", first, hidden, hidden), shape=["batch", hidden])
        w.at(HEAD, "head")
        out = linear("classifier", pooled, hidden, labels)
        out.name = "logits"
    elif head == "masked-lm":
        w.at(HEAD, "head.transform")
        y = linear("transform", h, hidden, hidden)
        g = w.op("Gelu", y, shape=wide, approximate=gelu)
        w.at(HEAD, "head.norm")
        x = norm("transform.norm", g)
        w.at(HEAD, "head")
        decoder = transposed("decoder.weight", words, hidden, vocab)
        out = write_linear(w, x, decoder, vector("decoder.bias", vocab))
        out.name = "logits"
    else:
        out = h
        out.name = "last_hidden_state"
    graph.extend(w.nodes)
    graph.outputs.append(out)
    model = ir.Model(graph, ir_version=10, producer_name="bqc")
    record(model)
    return model


def _matrix(rng: np.random.Generator, rows: int, columns: int) -> Array:
    data = rng.standard_normal((rows, columns), dtype=np.float32)
    data *= np.float32(0.05)
    data[:, rng.integers(0, columns)] *= np.float32(4)
    return data


def _input(name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "sequence"]))

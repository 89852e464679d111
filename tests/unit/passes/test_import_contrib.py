"""Every operator of ONNX Runtime that import decomposes computes what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bqc.ir.explain import explanation
from bqc.passes import pass_class
from tests.support.exports import session

B, S, H, N = 3, 5, 8, 2
RNG = np.random.default_rng(0)
PASSES = ("embedding", "matmul", "gelu", "norm", "attention")
MASK = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int32)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def one_node(
    op_type: str,
    feeds: dict[str, Any],
    constants: dict[str, Any],
    order: list[str],
    outputs: int = 1,
    **attributes: Any,
) -> ir.Model:
    """A model of one contrib node; input names in `order`, empty for one that is left out."""
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, order, names, domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in feeds.items()
        ],
        [
            helper.make_tensor_value_info(
                n, TensorProto.INT32 if op_type.startswith("Embed") and i == 1 else TensorProto.FLOAT, None
            )
            for i, n in enumerate(names)
        ],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=domains, ir_version=10))


def decompose(model: ir.Model) -> ir.Model:
    for name in PASSES:
        pass_class(f"import-contrib-{name}")()(model)
    return model


IDS = {
    "ids": RNG.integers(0, 9, (B, S)).astype(np.int32),
    "types": RNG.integers(0, 2, (B, S)).astype(np.int32),
}
TABLES = {"word": floats(9, H), "place": floats(7, H), "kind": floats(2, H), "g": floats(H), "b": floats(H)}
EMBED = ["ids", "types", "word", "place", "kind", "g", "b"]
X = {"x": floats(B, S, H)}
QKV = {"q": floats(B, S, H), "k": floats(B, S, H), "v": floats(B, S, H)}
W = {"w": floats(H, 3 * H), "b": floats(3 * H)}
ENDS = MASK[::-1].sum(1).astype(np.int32)

CASES: dict[str, tuple[Any, ...]] = {
    "Gelu": ("Gelu", X, {}, ["x"]),
    "BiasGelu": ("BiasGelu", X, {"b": floats(H)}, ["x", "b"]),
    "FastGelu": ("FastGelu", X, {}, ["x"]),
    "FastGelu bias": ("FastGelu", X, {"b": floats(H)}, ["x", "b"]),
    "QuickGelu": ("QuickGelu", X, {}, ["x"], 1, {"alpha": 1.5}),
    "SkipLayerNormalization": (
        "SkipLayerNormalization",
        {**X, "s": floats(B, S, H)},
        {"g": floats(H), "b": floats(H)},
        ["x", "s", "g", "b"],
        1,
        {"epsilon": 1e-3},
    ),
    "SkipLayerNormalization bias, sum": (
        "SkipLayerNormalization",
        {**X, "s": floats(B, S, H)},
        {"g": floats(H), "b": floats(H), "c": floats(H)},
        ["x", "s", "g", "", "c"],
        4,
        {},
    ),
    "FusedMatMul": (
        "FusedMatMul",
        {"x": floats(B, N, S, 4), "y": floats(B, N, S, 4)},
        {},
        ["x", "y"],
        1,
        {"alpha": 0.5, "transB": 1},
    ),
    "FusedMatMul constant": (
        "FusedMatMul",
        {"x": floats(B, H, S)},
        {"w": floats(7, H)},
        ["x", "w"],
        1,
        {"transA": 1, "transB": 1},
    ),
    "FusedGemm": (
        "FusedGemm",
        {"x": floats(B, H)},
        {"w": floats(7, H), "b": floats(7)},
        ["x", "w", "b"],
        1,
        {"activation": "Tanh", "transB": 1},
    ),
    "EmbedLayerNormalization": ("EmbedLayerNormalization", IDS, TABLES, EMBED, 3, {}),
    "EmbedLayerNormalization mask": (
        "EmbedLayerNormalization",
        {**IDS, "mask": MASK},
        TABLES,
        [*EMBED, "mask"],
        2,
        {"epsilon": 1e-5},
    ),
    "EmbedLayerNormalization positions, no types": (
        "EmbedLayerNormalization",
        {"ids": IDS["ids"], "pos": IDS["types"]},
        TABLES,
        ["ids", "", "word", "place", "", "g", "b", "", "pos"],
        2,
        {},
    ),
    "Attention": ("Attention", X, W, ["x", "w", "b"], 1, {"num_heads": N}),
    "Attention mask": (
        "Attention",
        {**X, "m": MASK},
        W,
        ["x", "w", "b", "m"],
        1,
        {"num_heads": N, "scale": 0.3},
    ),
    "Attention ends": ("Attention", {**X, "m": ENDS}, W, ["x", "w", "b", "m"], 1, {"num_heads": N}),
    "Attention bias": (
        "Attention",
        {**X, "a": floats(B, N, S, S)},
        W,
        ["x", "w", "b", "", "", "a"],
        1,
        {"num_heads": N},
    ),
    "MultiHeadAttention": (
        "MultiHeadAttention",
        QKV,
        {"b": floats(3 * H)},
        ["q", "k", "v", "b"],
        1,
        {"num_heads": N},
    ),
    "MultiHeadAttention mask": (
        "MultiHeadAttention",
        {**QKV, "m": MASK},
        {},
        ["q", "k", "v", "", "m"],
        1,
        {"num_heads": N, "mask_filter_value": -3e4},
    ),
    "MultiHeadAttention bias": (
        "MultiHeadAttention",
        {**QKV, "a": floats(1, N, S, S)},
        {},
        ["q", "k", "v", "", "", "a"],
        1,
        {"num_heads": N, "scale": 0.2},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_as_onnxruntime(name: str) -> None:
    op_type, feeds, constants, order, *rest = CASES[name]
    outputs, attributes = rest if rest else (1, {})
    constants = {k: v for k, v in constants.items() if k in order}
    model = one_node(op_type, feeds, constants, order, outputs, **attributes)
    if outputs == 4:  # mean and deviation, which cannot be said, are not asked for
        for value in (model.graph.outputs.pop(1), model.graph.outputs.pop(1)):
            value.name = ""
    wanted = session(model).run(None, feeds)
    after = decompose(model)
    assert {n.domain for n in after.graph} == {""}, str(explanation(model))
    for a, b in zip(session(after).run(None, feeds), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


STARTS_AND_ENDS = np.array([3, 5, 5, 0, 2, 0], np.int32)

REFUSED: dict[str, tuple[Any, ...]] = {
    "unidirectional": ("Attention", X, W, ["x", "w", "b"], 1, {"num_heads": N, "unidirectional": 1}),
    "cache of past keys": (
        "Attention",
        {**X, "p": floats(2, B, N, 2, 4)},
        W,
        ["x", "w", "b", "", "p"],
        1,
        {"num_heads": N},
    ),
    "per query": (
        "Attention",
        {**X, "m": np.ones((B, S, S), np.int32)},
        W,
        ["x", "w", "b", "m"],
        1,
        {"num_heads": N},
    ),
    "differ in size": (
        "Attention",
        X,
        W,
        ["x", "w", "b"],
        1,
        {"num_heads": N, "qkv_hidden_sizes": [4, 4, 16]},
    ),
    "do not divide": ("Attention", X, W, ["x", "w", "b"], 1, {"num_heads": 3}),
    "packed into one input": (
        "MultiHeadAttention",
        {"q": floats(B, S, N, 3, 4)},
        {},
        ["q"],
        1,
        {"num_heads": N},
    ),
    "its activation is LeakyRelu": (
        "FusedGemm",
        {"x": floats(B, H)},
        {"w": floats(H, 7)},
        ["x", "w"],
        1,
        {"activation": "LeakyRelu"},
    ),
    "moves the batch axis": (
        "FusedMatMul",
        {"x": floats(B, N, S, 4), "y": floats(B, N, 4, S)},
        {},
        ["x", "y"],
        1,
        {"transBatchA": 1},
    ),
    "output 1 is used": (
        "SkipLayerNormalization",
        {**X, "s": floats(B, S, H)},
        {"g": floats(H)},
        ["x", "s", "g"],
        2,
        {},
    ),
    "no vector of constants": (
        "SkipLayerNormalization",
        {**X, "s": floats(B, S, H), "g": floats(H)},
        {},
        ["x", "s", "g"],
        1,
        {},
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused_by_name(why: str) -> None:
    op_type, feeds, constants, order, outputs, attributes = REFUSED[why]
    model = decompose(one_node(op_type, feeds, constants, order, outputs, **attributes))
    assert [n.op_type for n in model.graph] == [op_type]
    assert why in str(explanation(model))


def test_ends_and_starts() -> None:
    """`[2B]` masks: ends, then starts; the CPU kernel of ONNX Runtime takes their ends only."""
    feeds = {**X, "m": STARTS_AND_ENDS}
    model = one_node("Attention", feeds, W, ["x", "w", "b", "m"], num_heads=N)
    model.graph.inputs[1].shape = ir.Shape(["2*batch"])
    found = session(decompose(model)).run(None, feeds)
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int32)
    plain = one_node("Attention", {**X, "m": mask}, W, ["x", "w", "b", "m"], num_heads=N)
    np.testing.assert_allclose(found, session(plain).run(None, {**X, "m": mask}), atol=1e-5)


def test_what_is_left_is_named() -> None:
    model = one_node("Attention", X, W, ["x", "w", "b"], num_heads=N, unidirectional=1)
    model.graph.opset_imports["ai.onnx.ml"] = 5
    pass_class("import-contrib")()(decompose(model))
    assert set(model.graph.opset_imports) == {"", "com.microsoft"}
    assert "com.microsoft.Attention has no rule" in str(explanation(model))

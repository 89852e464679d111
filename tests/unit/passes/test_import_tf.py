"""What TensorFlow's converters write imports to the graph that torch's exporters give."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import bqc
from bqc.ir import import_model, load
from bqc.ir.structure import difference
from bqc.passes.import_attention import EMPTY_ROWS
from bqc.passes.import_einsum import ImportEinsum
from bqc.passes.import_flat import ImportFlat
from bqc.passes.import_layernorm_probe import ImportLayerNormProbe
from bqc.passes.import_lookup import ImportLookup
from bqc.passes.import_pool import ImportPool
from tests.support.exporters_tf import EXPORTERS, convert
from tests.support.exports import Export, batches, largest_difference, session, typed

SOURCE = Export("torchscript", 14)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copy(SOURCE.path, tmp_path / "model.onnx"))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_same_as_torch(exporter: str, source: Path) -> None:
    path = EXPORTERS[exporter](source)
    model, summary = import_model(path)
    # -10000 hides no key where it is added to all of them.
    assert (summary.encoder, summary.notes) == (import_model(source)[1].encoder, (EMPTY_ROWS,))
    assert not summary.misses
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert largest_difference(path, model) < 1e-5
    torch, ours = session(source), session(model)
    for feeds in batches({i.name for i in torch.get_inputs()}):
        np.testing.assert_allclose(
            ours.run(None, typed(ours, feeds))[0], torch.run(None, feeds)[0], atol=1e-5
        )


@pytest.mark.parametrize("style", ["keras", "matrix", "einsum"])
def test_same_structure_as_torch(style: str, source: Path) -> None:
    one, _ = import_model(source)
    two, _ = import_model(convert(source, style, 13, wide=True))
    assert difference(one, two, tolerance=1e-6) is None


@pytest.mark.parametrize("style", ["keras", "matrix", "einsum"])
def test_compiles(style: str, source: Path, tmp_path: Path) -> None:
    result = bqc.compile(convert(source, style, 13), output=tmp_path / "tf.onnx")
    plain = bqc.compile(source, output=tmp_path / "plain.onnx")
    assert result.operators == plain.operators
    ours, theirs = (bqc.session(r.paths[0]) for r in (result, plain))
    for feeds in batches({i.name for i in theirs.get_inputs()}):
        a, b = ours.run(None, typed(ours, feeds))[0], theirs.run(None, feeds)[0]
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_tanh_gelu(source: Path) -> None:
    path = convert(source, kind="tanh")
    model, summary = import_model(path)
    assert summary.encoder.gelu == "tanh"
    assert largest_difference(path, model) < 1e-5


def text(body: str, opset: int = 21, **vectors: list[float]) -> ir.Model:
    constants = ", ".join(f"float[{len(v)}] {k} = {{{', '.join(map(str, v))}}}" for k, v in vectors.items())
    return ir.from_onnx_text(
        f"<ir_version: 8, opset_import: ['' : {opset}]> {body}".replace("'", '"') % constants
    )


NORM = """g (float[B, S, 4] x) => (float[B, S, 4] y) <%s, int64[1] last = {-1}, float eps = {0.001}> {
m = ReduceMean(x, last)
d = Sub(x, m)
s = Mul(d, d)
v = ReduceMean(s, last)
e = Add(v, eps)
q = Sqrt(e)
r = Reciprocal(q)
f = Mul(r, gamma)
t = Mul(m, f)
b = Sub(beta, t)
z = Mul(x, f)
y = Add(z, b)
}"""
VECTORS = {"gamma": [1.0, 2.0, 3.0, 4.0], "beta": [0.5, 0.0, 1.0, -1.0]}


def test_norm_in_another_order() -> None:
    model = text(NORM, **VECTORS)
    before = ir.from_proto(ir.to_proto(model))
    assert ImportLayerNormProbe()(model).modified
    assert [n.op_type for n in model.graph] == ["LayerNormalization"]
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(*(session(m).run(None, {"x": x})[0] for m in (before, model)), atol=1e-5)


def test_what_follows_a_norm_without_beta_stays() -> None:
    model = text(NORM.replace("Mul(x, f)", "Mul(d, f)"), **VECTORS)
    before = ir.from_proto(ir.to_proto(model))
    assert ImportLayerNormProbe()(model).modified
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(*(session(m).run(None, {"x": x})[0] for m in (before, model)), atol=1e-5)


@pytest.mark.parametrize("change", [("Sub(beta, t)", "Add(beta, t)"), ("Mul(d, d)", "Mul(d, m)")])
def test_no_norm(change: tuple[str, str]) -> None:
    model = text(NORM.replace(*change), **VECTORS)
    assert not ImportLayerNormProbe()(model).modified


def test_lookup_of_other_rows_is_left(source: Path) -> None:
    """One-hot of reversed token types is no lookup of an input."""
    model = load(convert(source, "matrix", 13))
    hot = next(n for n in model.graph if n.op_type == "OneHot")
    values = hot.inputs[2]
    assert values is not None
    values.const_value = ir.tensor(np.array([1, 0], np.float32))
    assert not ImportLookup()(model).modified
    _, summary = import_model(model)
    assert [part.part for part in summary.encoder.float_parts] == ["embedding:embedding.sum"]


def test_reshape_that_is_no_dense_layer_is_left() -> None:
    body = "g (float[B, S, 4] x) => (float[N, 4] y) <%s, int64[2] t = {-1, 4}>"
    body += "{ r = Reshape(x, t) \n y = Mul(r, gamma) }"
    assert not ImportFlat()(text(body, **VECTORS)).modified


@pytest.mark.parametrize("equation", ["abc,cd->adb", "abc,dc->abd", "abc,cd->abcd"])
def test_einsum_that_is_no_dense_layer_is_left(equation: str) -> None:
    body = (
        "g (float[B, S, 4] x) => (float[A, B, C] y) <%s, float[4, 4] w = {" + ", ".join(["1.0"] * 16) + "}> "
    )
    body += "{ y = Einsum<equation = 'EQ'>(x, w) }".replace("EQ", equation)
    assert not ImportEinsum()(text(body, **VECTORS)).modified


def test_opset_10() -> None:
    path = Export("torchscript", 10).path
    model, summary = import_model(path)
    assert summary.source_opset == 10
    assert largest_difference(path, model) < 1e-5


@pytest.mark.parametrize(("shape", "pooled"), [("B, S, 4", 1), ("B, S, 4, 4", 0), ("B, 4, 4, 4, 4", 0)])
def test_pooling_over_the_last_axis_is_a_mean(shape: str, pooled: int) -> None:
    ones = ", ".join(["1"] * (shape.count(",") + 1))
    body = f"g (float[{shape}] x) => (float[{ones}] y) <%s> {{ z = Sqrt(x) \n y = GlobalAveragePool(z) }}"
    model = text(body, **VECTORS)
    before = ir.from_proto(ir.to_proto(model))
    assert ImportPool()(model).modified == bool(pooled)
    assert sum(n.op_type == "ReduceMean" for n in model.graph) == pooled
    x = np.random.default_rng(0).random([4 for _ in shape.split(",")], dtype=np.float32)
    np.testing.assert_allclose(*(session(m).run(None, {"x": x})[0] for m in (before, model)), rtol=1e-6)


def test_the_one_row_of_a_table_is_that_of_zeros() -> None:
    """Any input of ids in range gives that row; which of them was read was left to the order of a set."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (int64[B, S] ids, int64[B, S] types) => (float[B, S, 2] y) <float[1, 2] table = {1, 2}, int64 one = {1},
        float[2] values = {0, 1}, float[2] gamma = {1, 2}, float[2] beta = {0, 1}> {
        shape = Shape(ids)
        kinds = Reshape(types, shape)
        hot = OneHot(kinds, one, values)
        x = MatMul(hot, table)
        y = LayerNormalization(x, gamma, beta)
        }"""
    )
    assert ImportLookup()(model).modified
    lookup = next(node for node in model.graph if node.op_type == "Gather")
    made = lookup.inputs[1].producer() if lookup.inputs[1] is not None else None
    assert made is not None
    assert made.op_type == "Expand"

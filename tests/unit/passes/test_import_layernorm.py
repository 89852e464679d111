"""LayerNorm from means and squares; near misses name the predicate that failed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bqc.ir.explain import explanation
from bqc.passes.import_layernorm import ImportLayerNorm
from tests.support.exports import session

HEAD = '<ir_version: 10, opset_import: ["" : 21]> n (float[B, S, 4] x) => (float[B, S, 4] y) '
CONSTANTS = """<int64[1] last = {-1}, int64[1] middle = {1}, float two = {2.0}, float one = {1.0},
 float eps = {1e-5}, float big = {0.7}, float[4] g = {1.0, 2.0, 0.5, -1.0},
 float[4] b = {0.1, 0.2, 0.3, 0.4}> """
PLAIN = """m = ReduceMean(x, last)
d = Sub(x, m)
q = Pow(d, two)
v = ReduceMean(q, last)
e = Add(v, eps)
s = Sqrt(e)
n = Div(d, s)
a = Mul(n, g)
y = Add(a, b)"""
FORMS = {
    "torch": PLAIN,
    "swapped": PLAIN.replace("Mul(n, g)", "Mul(g, n)")
    .replace("Add(a, b)", "Add(b, a)")
    .replace("Add(v, eps)", "Add(eps, v)"),
    "square": PLAIN.replace("Pow(d, two)", "Mul(d, d)"),
    "reciprocal": PLAIN.replace("n = Div(d, s)", "r = Reciprocal(s)\nn = Mul(r, d)"),
    "one over": PLAIN.replace("n = Div(d, s)", "r = Div(one, s)\nn = Mul(d, r)"),
    "two differences": PLAIN.replace("n = Div(d, s)", "d2 = Sub(x, m)\nn = Div(d2, s)"),
}
NEAR = {
    "extra factor": (
        PLAIN.replace("a = Mul(n, g)", "n2 = Neg(n)\na = Mul(n2, g)"),
        "no Mul with a scale gamma",
    ),
    "other axis": (PLAIN.replace("v = ReduceMean(q, last)", "v = ReduceMean(q, middle)"), "not the last one"),
    "epsilon": (PLAIN.replace("Add(v, eps)", "Add(v, big)"), "epsilon is not a small constant"),
    "cube": (PLAIN.replace("Pow(d, two)", "Pow(d, one)"), "not the mean of a square"),
    "rms": (PLAIN.replace("d = Sub(x, m)", "d = Neg(x)"), "not x minus its mean"),
}


def model(body: str) -> ir.Model:
    return ir.from_onnx_text(HEAD + CONSTANTS + "{" + body + "}")


@pytest.mark.parametrize("body", FORMS.values(), ids=list(FORMS))
def test_layernorm(body: str) -> None:
    before, after = model(body), model(body)
    assert ImportLayerNorm()(after).modified
    assert [n.op_type for n in after.graph] == ["LayerNormalization"]
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    (a,), (b,) = (session(m).run(None, {"x": x}) for m in (before, after))
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(("body", "predicate"), NEAR.values(), ids=list(NEAR))
def test_near_misses_stay_and_are_explained(body: str, predicate: str) -> None:
    near = model(body)
    ImportLayerNorm()(near)
    assert not any(n.op_type == "LayerNormalization" for n in near.graph)
    assert predicate in str(explanation(near))


def test_an_existing_norm_gets_the_last_axis_and_a_beta() -> None:
    old = model("y = LayerNormalization<axis = 2>(x, g)")
    ImportLayerNorm()(old)
    (node,) = list(old.graph)
    assert node.attributes["axis"].as_int() == -1
    assert node.inputs[2] is not None
    assert not node.inputs[2].const_value.numpy().any()  # type: ignore[union-attr]

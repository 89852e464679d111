"""GELU in every order of its factors; what is almost GELU stays, with the reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bqc.ir.explain import explanation
from bqc.passes.import_gelu import ImportGelu
from tests.support.exports import session

NUMBERS = (
    "<float half = {0.5}, float one = {1.0}, float two = {2.0}, float three = {3.0}, float r = {1.4142135}, "
)
NUMBERS += "float i = {0.70710678}, float c = {0.79788456}, float k = {0.044715}, float wrong = {0.6}>"

ERF = {
    "torchscript": "d = Div(x, r) e = Erf(d) a = Add(e, one) m = Mul(x, a) y0 = Mul(m, half)",
    "dynamo": "d = Div(x, r) e = Erf(d) a = Add(e, one) h = Mul(half, a) y0 = Mul(x, h)",
    "half first": "h = Mul(x, half) d = Mul(i, x) e = Erf(d) a = Add(one, e) y0 = Mul(a, h)",
    "divided": "d = Mul(x, i) e = Erf(d) a = Add(one, e) m = Mul(a, x) y0 = Div(m, two)",
}
TANH = {
    "pow": "p = Pow(x, three) q = Mul(k, p) s = Add(x, q) u = Mul(c, s) t = Tanh(u) a = Add(one, t)"
    " h = Mul(half, x) y0 = Mul(h, a)",
    "products": "p = Mul(x, x) p3 = Mul(p, x) q = Mul(p3, k) s = Add(q, x) u = Mul(s, c) t = Tanh(u)"
    " a = Add(t, one) h = Mul(x, a) y0 = Mul(h, half)",
    "fast": "p = Mul(x, x) q = Mul(k, p) f = Add(one, q) g = Mul(x, c) u = Mul(g, f) t = Tanh(u)"
    " a = Add(t, one) h = Mul(half, x) y0 = Mul(a, h)",
}
NEAR = {
    "half": ERF["dynamo"].replace("Mul(half", "Mul(wrong"),
    "inside": ERF["torchscript"].replace("Div(x, r)", "Div(x, two)"),
    "cubic": TANH["pow"].replace("Mul(k, p)", "Mul(half, p)"),
}


def model(body: str) -> ir.Model:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x) => (float[N, 4] y) '
    lines = body.replace(") ", ")\n") + "\ny = Neg(y0)"
    return ir.from_onnx_text(text + NUMBERS + " {" + lines + "}")


@pytest.mark.parametrize(
    ("body", "approximate"),
    [(b, "none") for b in ERF.values()] + [(b, "tanh") for b in TANH.values()],
    ids=[*ERF, *TANH],
)
def test_gelu(body: str, approximate: str) -> None:
    before, after = model(body), model(body)
    assert ImportGelu()(after).modified
    assert [n.op_type for n in after.graph] == ["Gelu", "Neg"]
    assert after.graph[0].attributes["approximate"].as_string() == approximate
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32) * 3
    (a,), (b,) = (session(m).run(None, {"x": x}) for m in (before, after))
    np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("body", NEAR.values(), ids=list(NEAR))
def test_near_misses_stay_and_are_explained(body: str) -> None:
    near = model(body)
    count = len(near.graph)
    assert not ImportGelu()(near).modified
    assert len(near.graph) == count
    assert "is not GELU: it gives" in str(explanation(near))


def test_a_function_whose_inside_is_read_elsewhere_stays() -> None:
    used = model(ERF["dynamo"] + " z = Exp(e)")
    used.graph.outputs.append(next(n for n in used.graph if n.op_type == "Exp").outputs[0])
    assert not ImportGelu()(used).modified

"""Loops that count become Range."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bqc.passes.import_range import ImportRange
from tests.support.exports import session

LOOP = """<ir_version: 8, opset_import: ["" : 21]>
g (int64 trips) => (int32[N] y) <bool go = {1}, int32 start = {3}, int32 delta = {-2}> {
last, y = Loop(trips, go, start) <body = counting (int64 i, bool c, int32 x) => (bool d, int32 next, int32 seen) {
next = Add(x, delta)
seen = Identity(x)
d = Identity(c)
}>
}"""


@pytest.mark.parametrize("change", [("", ""), ("Add(x, delta)", "Add(delta, x)"), ("{-2}", "{5}")])
def test_counting(change: tuple[str, str]) -> None:
    model = ir.from_onnx_text(LOOP.replace(*change))
    before = ir.from_proto(ir.to_proto(model))
    assert ImportRange()(model).modified
    assert "Loop" not in [n.op_type for n in model.graph]
    for trips in (0, 1, 7):
        feeds = {"trips": np.array(trips, np.int64)}
        np.testing.assert_array_equal(*(session(m).run(None, feeds)[0] for m in (before, model)))


@pytest.mark.parametrize(
    "change",
    [
        ("Add(x, delta)", "Mul(x, delta)"),
        ("Add(x, delta)", "Add(x, x)"),
        ("Identity(x)", "Add(x, delta)"),
        ("Identity(c)", "Not(c)"),
        ("go = {1}", "go = {0}"),
        ("{-2}", "{0}"),
        ("(int32[N] y)", "(int32[N] y, int32 last)"),
    ],
)
def test_other_loops_are_left(change: tuple[str, str]) -> None:
    assert not ImportRange()(ir.from_onnx_text(LOOP.replace(*change))).modified

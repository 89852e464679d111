"""Branches that types and ranks decide."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bqc.passes.import_branches import ImportBranches
from tests.support.exports import session

NESTED = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N, 3] x) => (float[N, 3] y) <int64 two = {2}, int64 three = {3}> {
shape = Shape(x)
rank = Size(shape)
matrix = Equal(rank, two)
y = If(matrix) <
  then_branch = outer () => (float[N, 3] a) {
    cube = Equal(rank, three)
    r = If(cube) <
      then_branch = inner () => (float[N, 3] r1) { r = Neg(x) r1 = Identity(r) },
      else_branch = inner2 () => (float[N, 3] r2) { r = Exp(x) r2 = Relu(r) }
    >
    a = Add(r, x)
  },
  else_branch = other () => (float[N, 3] b) { r = Neg(x) b = Identity(r) }
>
}"""


def test_one_answer_decides_the_next() -> None:
    model = ir.from_onnx_text(NESTED)
    before = ir.from_proto(ir.to_proto(model))
    assert ImportBranches()(model).modified
    assert [n.op_type for n in model.graph] == ["Exp", "Relu", "Add"]
    feeds = {"x": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)}
    np.testing.assert_array_equal(*(session(m).run(None, feeds)[0] for m in (before, model)))


@pytest.mark.parametrize(
    "change",
    [("Shape(x)", "Shape<start = 1>(x)"), ("Size(shape)", "Size(x)"), ("g (float[N, 3] x)", "g (float x)")],
)
def test_what_is_not_known_stays(change: tuple[str, str]) -> None:
    model = ir.from_onnx_text(NESTED.replace(*change))
    if "float x" in change[1]:
        model.graph.inputs[0].shape = None
    ImportBranches()(model)
    assert "If" in [n.op_type for n in model.graph]

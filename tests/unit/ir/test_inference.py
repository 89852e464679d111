"""Types and shapes that follow from others; contradictions are no log lines with tracebacks."""

from __future__ import annotations

import logging

import onnx_ir as ir
import pytest

from bqc.ir.inference import infer_shapes

GRAPH = """<ir_version: 10, opset_import: ["" : 21]> g (float[2, 3] x, float[{rows}, 4] w) => (float[2, 4] y) {{
a = MatMul(x, w)
y = Relu(a)
}}"""


def test_it_infers() -> None:
    model = ir.from_onnx_text(GRAPH.format(rows=3))
    assert infer_shapes(model)
    assert model.graph[0].outputs[0].shape == ir.Shape([2, 4])


def test_a_contradiction_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = ir.from_onnx_text(GRAPH.format(rows=5))
    assert not infer_shapes(model)
    assert not caplog.records
    assert logging.getLogger("onnx_ir").level == logging.NOTSET


def test_a_sequence_stays_one() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[2, 4] x) => (float[] y) <int64 at = {1}> {
        parts = SplitToSequence <axis = 1> (x, at)
        y = SequenceAt(parts, at)
        }"""
    )
    infer_shapes(model)
    assert model.graph[0].outputs[0].type == ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))

"""Biases in other forms than a vector that is added."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bqc.ir import import_model
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import session


@pytest.mark.parametrize("form", ["leading", "number", "one", "less"])
def test_whole_in_every_form(form: str) -> None:
    proto = ir.to_proto(canonical_bert(layers=1))
    for item in (*proto.graph.node, *proto.graph.initializer):
        item.ClearField("metadata_props")
    written = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Add" and node.input[1].startswith("layer.0") and node.input[1].endswith(".bias"):
            _write(node, written[node.input[1]], form)
    feeds = {"input_ids": np.array([[4, 5, 6]])}
    feeds["attention_mask"], feeds["token_type_ids"] = np.array([[1, 1, 0]]), np.array([[0, 1, 1]])
    (wanted,) = session(ir.from_proto(proto)).run(None, feeds)
    model, summary = import_model(ir.from_proto(proto))
    assert not summary.encoder.float_parts
    np.testing.assert_allclose(session(model).run(None, feeds)[0], wanted, atol=1e-5)


def _write(node: onnx.NodeProto, bias: onnx.TensorProto, form: str) -> None:
    data = onnx.numpy_helper.to_array(bias)
    if form == "less":
        node.op_type = "Sub"
        data = -data
    elif form == "leading":
        data = data[None, None]
        node.input[:] = reversed(node.input)
    else:
        data = data[0] if form == "number" else data[:1]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array(data), bias.name))

"""Equal matrices are one; sizes come from the token ids; what has no type gets one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import nodes_of
from bqc.ir.synthetic import canonical_bert
from bqc.passes.import_shapes import ImportShapes
from bqc.passes.import_shared import ImportShared
from bqc.passes.import_types import ImportTypes


def weights(model: ir.Model, role: str) -> list[ir.Value | None]:
    return [n.inputs[1] for n in nodes_of(model, role=role) if n.op_type == "MatMul"]


def test_copies_become_one() -> None:
    model = canonical_bert(layers=3)
    first, second, third = weights(model, "ffn.output")
    assert first is not None and second is not None and third is not None  # noqa: PT018
    assert first.const_value is not None
    second.const_value = ir.tensor(first.const_value.numpy().copy())
    almost = first.const_value.numpy().copy()
    almost[0, 0] = np.nextafter(almost[0, 0], np.float32(1))
    third.const_value = ir.tensor(almost)
    assert ImportShared()(model).modified
    assert weights(model, "ffn.output") == [first, first, third]
    assert second.name not in model.graph.initializers
    assert not ImportShared()(model).modified


def test_a_size_of_a_hidden_state_is_that_of_the_ids() -> None:
    model = canonical_bert(layers=1, hidden=32, head="none")
    hidden = model.graph.outputs[0]
    for start, end, ops in ((0, 3, ["Shape", "Concat"]), (1, 2, ["Shape"]), (-3, -1, ["Shape"]), (2, 3, [])):
        shape = ir.node("Shape", [hidden], attributes={"start": start, "end": end})
        read = ir.node("Cast", shape.outputs, attributes={"to": 1})
        model.graph.extend([shape, read])
        model.graph.outputs[:] = [hidden, read.outputs[0]]
        assert ImportShapes()(model).modified
        source = read.inputs[0]
        assert source is not None
        made = []
        while (node := source.producer()) is not None:
            made.insert(0, node.op_type)
            source = node.inputs[0]
            assert source is not None
        assert made == ops
        if ops:
            assert source.name == "input_ids"
        else:
            assert source.const_value is not None
            assert source.const_value.numpy().tolist() == [32]


def test_missing_types_are_inferred() -> None:
    model = canonical_bert(layers=1, hidden=32)
    assert not ImportTypes()(model).modified
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    assert ImportTypes()(model).modified
    (norm,) = (n for n in nodes_of(model, "0", "ffn.norm") if n.op_type == "LayerNormalization")
    assert norm.outputs[0].dtype is ir.DataType.FLOAT
    assert norm.outputs[0].shape is not None
    assert norm.outputs[0].shape[-1] == 32

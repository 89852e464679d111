"""Opset conversion: weights stay the same objects, misplaced operators are mended, nonsense is refused."""

from __future__ import annotations

import random

import onnx
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.synthetic import canonical_bert
from bqc.passes.import_opset import ImportOpset
from tests.support.exports import largest_difference

OLD = """<ir_version: 3, opset_import: ["" : 11]> old (float[B, S, 4] x, float[4] g) => (float[B, S, 1, 4] y)
<float[4] g = {1.0, 2.0, 3.0, 4.0}, float[4] b = {0.0, 0.0, 1.0, 1.0}> {
n = LayerNormalization(x, g, b)
y = Unsqueeze<axes = [2]>(n)
}"""


def test_old_opset() -> None:
    model = ir.from_onnx_text(OLD)
    assert ImportOpset()(model).modified
    assert [(n.domain, n.op_type, len(n.inputs)) for n in model.graph if n.op_type != "Constant"] == [
        ("", "LayerNormalization", 3),
        ("", "Unsqueeze", 2),
    ]
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert (dict(model.graph.opset_imports), model.ir_version) == ({"": 21}, 10)
    onnx.checker.check_model(ir.to_proto(model))


def test_large_weights_are_not_copied() -> None:
    model = canonical_bert(hidden=64)
    model.graph.opset_imports[""] = 20
    before = {name: v.const_value for name, v in model.graph.initializers.items()}
    reference = canonical_bert(hidden=64)
    ImportOpset()(model)
    word = model.graph.initializers["embeddings.word"]
    assert word.const_value is before["embeddings.word"]
    assert len(word.uses()) == 1
    assert not word.is_graph_input()
    assert largest_difference(reference, model) == 0


CAPTURES = """<ir_version: 9, opset_import: ["" : 17]> captures (bool c, float[2] x) => (float[2] y) {
r = Abs(x)
y = If(c) <then_branch = yes () => (float[2] t) { t = Add(r, x) }, else_branch = no () => (float[2] e) { e = Neg(r) }>
}"""


def test_subgraphs_keep_what_they_take_from_outside() -> None:
    model = ir.from_onnx_text(CAPTURES)
    ImportOpset()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    absolute, _ = model.graph
    assert {use.op_type for use in absolute.outputs[0].consumers()} == {"Neg", "Add"}
    assert {use for use in model.graph.inputs[1].consumers() if use.graph is model.graph} == {absolute}
    assert len(model.graph.inputs[1].uses()) == 2
    with pytest.raises(BqcError, match="no encoder found"):
        import_model(ir.from_onnx_text(CAPTURES))


def test_a_later_opset_is_for_the_pass_before() -> None:
    model = canonical_bert()
    model.graph.opset_imports[""] = 23
    with pytest.raises(BqcError, match="opset 23, after 21: `import-later` comes before"):
        ImportOpset()(model)


def failure(proto: onnx.ModelProto) -> str:
    try:
        import_model(ir.from_proto(proto))
    except BqcError as error:
        return str(error)
    return ""


def test_damaged_graphs_are_one_line_errors() -> None:
    base = ir.to_proto(canonical_bert())
    rng = random.Random(0)
    refused = 0
    for _ in range(40):
        proto = onnx.ModelProto()
        proto.CopyFrom(base)
        node = rng.choice(proto.graph.node)
        damage = rng.randrange(4)
        if damage == 0:
            node.input[0] = "ghost"
        elif damage == 1:
            node.op_type = "NoSuchOperator"
        elif damage == 2:
            del node.input[:]
        else:
            proto.graph.node.remove(node)
        message = failure(proto)
        assert "\n" not in message
        refused += bool(message)
    assert refused >= 35


def test_opset_that_does_not_exist() -> None:
    model = ir.from_onnx_text(OLD)
    model.graph.opset_imports[""] = -2
    with pytest.raises(BqcError, match="opset -2, which does not exist"):
        ImportOpset()(model)

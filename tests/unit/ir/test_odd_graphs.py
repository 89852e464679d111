"""Graphs whose names meet those that import writes, with subgraphs, without room for a token, with damaged weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import bqc
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import session

IDS = np.array([[5, 6, 7, 8]])
FEEDS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}


def plain(layers: int = 1) -> ir.Model:
    model = canonical_bert(layers=layers)
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    return ir.from_proto(ir.to_proto(model))


@pytest.mark.parametrize("name", ["mask_low", "attention_scale", "position_axis", "heads_split"])
@pytest.mark.parametrize("where", ["output", "input"])
def test_names_that_import_writes(name: str, where: str, tmp_path: Path) -> None:
    model = plain()
    renamed = {name: "input_ids"} if where == "input" else {}
    if name in model.graph.initializers:
        # Import writes it again.
        model.graph.initializers[name].name = f"other.{name}"
    (model.graph.inputs if where == "input" else model.graph.outputs)[0].name = name
    proto = ir.to_proto(model)
    (wanted,) = session(ir.from_proto(proto)).run(None, _fed(renamed))
    imported, _ = import_model(ir.from_proto(proto))
    np.testing.assert_allclose(session(imported).run(None, _fed(renamed))[0], wanted, atol=1e-5)
    path = bqc.compile(ir.from_proto(proto), output=tmp_path / "out.onnx").paths[0]
    assert np.isfinite(bqc.session(path).run(None, _fed(renamed))[0]).all()


def _fed(renamed: dict[str, str]) -> dict[str, np.ndarray]:
    return {next((new for new, old in renamed.items() if old == k), k): v for k, v in FEEDS.items()}


def test_subgraphs_survive_the_opset_conversion() -> None:
    proto = ir.to_proto(plain())
    gelu = next(n for n in proto.graph.node if n.op_type == "Gelu")

    def branch(op: str) -> onnx.GraphProto:
        out = onnx.helper.make_tensor_value_info(f"{op}.out", onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([onnx.helper.make_node(op, [gelu.input[0]], [out.name])], op, [], [out])

    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "chosen"))
    chosen = onnx.helper.make_node(
        "If", ["chosen"], gelu.output, then_branch=branch("Relu"), else_branch=branch("Tanh")
    )
    gelu.CopyFrom(chosen)
    proto.opset_import[0].version = 18
    (wanted,) = session(ir.from_proto(proto)).run(None, FEEDS)
    imported, _ = import_model(ir.from_proto(proto))
    np.testing.assert_allclose(session(imported).run(None, FEEDS)[0], wanted, atol=1e-5)


def test_no_room_for_a_token() -> None:
    model = plain()
    model.graph.inputs[0].shape = ir.Shape([0, "sequence"])
    with pytest.raises(BqcError, match=r"input 'input_ids' has the shape \[0, 'sequence'\]"):
        import_model(model)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite(number: float, tmp_path: Path) -> None:
    model = plain()
    name = "layer.0.ffn.output.weight"
    data = model.graph.initializers[name].const_value.numpy().copy()  # type: ignore[union-attr]
    data[3, 4] = number
    model.graph.initializers[name].const_value = ir.tensor(data)
    with pytest.raises(BqcError, match=r"ffn.output.weight' \(0:ffn.output\) holds NaN"):
        bqc.compile(model, output=tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())

"""Files that are odd but run: half precision, odd inputs, functions, invalid ONNX that ONNX Runtime accepts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import bqc
from bqc.errors import BqcError
from bqc.ir import import_model, load
from bqc.ir.anatomy import encoder
from bqc.ir.synthetic import canonical_bert
from bqc.passes.import_functions import ImportFunctions
from bqc.passes.import_mend import ImportMend
from bqc.passes.import_precision import ImportPrecision
from bqc.verify import verify
from tests.support.exporters_ort import half, optimized
from tests.support.exports import Export, batches, largest_difference, session, typed
from tests.support.graphs import EXPORTERS

PLAIN = Export("torchscript", 14)
SLOW = Export("dynamo", 18, "sdpa", act="gelu_new")


@pytest.mark.parametrize("source", [PLAIN, pytest.param(SLOW, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("oddity", EXPORTERS)
def test_same_as_without_the_oddity(oddity: str, source: Export, tmp_path: Path) -> None:
    path = EXPORTERS[oddity](Path(shutil.copy(source.path, tmp_path / "model.onnx")))
    before = load(path).graph
    names = [(v.name, v.type) for v in before.inputs if v.const_value is None]
    model, summary = import_model(path)
    plain, _ = import_model(source.path)
    assert encoder(model) == encoder(plain)
    assert [(v.name, v.type) for v in model.graph.inputs] == names
    assert largest_difference(path, model) < 1e-5
    assert summary.notes == (("the nodes were not sorted",) if oddity == "unsorted" else ())


@pytest.mark.parametrize("oddity", ["narrow-ids", "narrow-ids-without-casts", "boolean-mask", "float-mask"])
def test_odd_inputs_compile(oddity: str, tmp_path: Path) -> None:
    path = EXPORTERS[oddity](Path(shutil.copy(PLAIN.path, tmp_path / "model.onnx")))
    compiled = bqc.compile(path, output=tmp_path / "out.onnx").paths[0]
    plain = bqc.compile(PLAIN.path, output=tmp_path / "plain.onnx").paths[0]
    ours, theirs = bqc.session(compiled), bqc.session(plain)
    for feeds in batches({i.name for i in theirs.get_inputs()}):
        np.testing.assert_array_equal(ours.run(None, typed(ours, feeds))[0], theirs.run(None, feeds)[0])


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "optimized"])
@pytest.mark.parametrize("keep_io_types", [True, False])
def test_half_precision(keep_io_types: bool, fused: bool, tmp_path: Path) -> None:
    source = Export("torchscript", 12, act="gelu_new", head="model")
    path = Path(shutil.copy(source.path, tmp_path / "model.onnx"))
    path = half(optimized(path) if fused else path, keep_io_types)
    types = [v.type for v in load(path).graph.outputs]
    model, summary = import_model(path)
    assert "half precision is computed in float32; inputs and outputs keep their types" in summary.notes
    assert [v.type for v in model.graph.outputs] == types
    inner = {v.dtype for n in model.graph for v in n.outputs if not v.is_graph_output()}
    assert not inner & {ir.DataType.FLOAT16}
    # Against the same numbers in float32: the source with its weights rounded.
    rounded = onnx.load(source.path)
    for tensor in rounded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            if values.size > 1:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    theirs, ours = session(rounded), session(model)
    for feeds in batches({i.name for i in theirs.get_inputs()}):
        if fused:
            feeds["attention_mask"] = -np.sort(-feeds["attention_mask"], axis=1)
        for a, b in zip(ours.run(None, feeds), theirs.run(None, feeds), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 if keep_io_types else 2e-3)


def test_half_precision_but_norms(tmp_path: Path) -> None:
    """The converter leaves types between nodes that are wrong, and casts around operators of ONNX Runtime."""
    path = optimized(
        Path(shutil.copy(Export("dynamo", 18, "sdpa", act="gelu_new").path, tmp_path / "model.onnx"))
    )
    path = half(path, blocked=["LayerNormalization", "SkipLayerNormalization", "Softmax"])
    model, summary = import_model(path)
    assert (summary.encoder.float_parts, summary.encoder.gelus) == ((), 2)
    assert largest_difference(path, model) < 2e-2


def test_half_precision_compiles(tmp_path: Path) -> None:
    path = half(Path(shutil.copy(PLAIN.path, tmp_path / "model.onnx")), keep_io_types=False)
    compiled = bqc.compile(path, output=tmp_path / "out.onnx").paths[0]
    assert session(compiled).get_outputs()[0].type == "tensor(float16)"
    assert verify(compiled, path).ok


def test_float_graphs_are_left_alone() -> None:
    model = canonical_bert()
    assert not ImportPrecision()(model).modified
    assert not ImportMend()(model).modified
    assert not ImportFunctions()(model).modified


def graph(nodes: list[onnx.NodeProto], domains: dict[str, int]) -> ir.Model:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    imports = [helper.make_opsetid(*one) for one in domains.items()]
    made = helper.make_graph(nodes, "g", [x], [y])
    return ir.from_proto(helper.make_model(made, opset_imports=imports, ir_version=8))


def shapeless(value: onnx.ValueInfoProto) -> None:
    value.type.tensor_type.ClearField("shape")


def below_zero(value: onnx.ValueInfoProto) -> None:
    for size in value.type.tensor_type.shape.dim:
        size.dim_value = -1


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (shapeless, "input 'input_ids' has no shape; read as [batch, sequence]"),
        (below_zero, "'input_ids' has a size below zero; read as unknown"),
    ],
)
def test_inputs_that_state_no_sizes(
    change: Callable[[onnx.ValueInfoProto], None], note: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    proto = onnx.load(PLAIN.path)
    for value in proto.graph.input:
        change(value)
    onnx.save(proto, path)
    compiled = bqc.compile(path, output=tmp_path / "out.onnx", block=16).paths[0]
    _, summary = import_model(path)
    assert note in summary.notes
    assert verify(compiled, path).ok


def test_missing_opset_imports() -> None:
    fused = helper.make_node("Gelu", ["x"], ["z"], domain="com.microsoft")
    model = graph([fused, helper.make_node("Relu", ["z"], ["y"])], {"": 17})
    assert ImportMend()(model).modified
    assert model.graph.opset_imports == {"": 17, "com.microsoft": 1}


def test_cycles_are_errors() -> None:
    model = graph(
        [helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Relu", ["z"], ["y"])], {"": 17}
    )
    with pytest.raises(BqcError, match="cycle"):
        ImportMend()(model)


def test_recursive_functions_are_errors() -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("F", ["x"], ["y"], domain="local")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        ),
        functions=[
            helper.make_function(
                "local",
                "F",
                ["a"],
                ["b"],
                [helper.make_node("F", ["a"], ["b"], domain="local")],
                [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
            )
        ],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
        ir_version=8,
    )
    with pytest.raises(BqcError, match="functions cannot be written out"):
        import_model(ir.from_proto(model))


def test_early_layer_normalization_is_noted(tmp_path: Path) -> None:
    from tests.support.exporters_ort import session_optimized

    path = session_optimized(Path(shutil.copy(PLAIN.path, tmp_path / "model.onnx")))
    _, summary = import_model(path)
    assert summary.notes == ("LayerNormalization is used before opset 17, which introduced it",)

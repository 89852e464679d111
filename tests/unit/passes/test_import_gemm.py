"""Gemm is written out, also where hidden states were made matrices for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bqc.ir import import_model, load
from bqc.ir.structure import difference
from bqc.passes.import_flat import ImportFlat
from bqc.passes.import_gemm import ImportGemm
from tests.support.exports import Export, largest_difference, session

SOURCE = Export("torchscript", 17)


def matrices(path: Path) -> Path:
    """Dense layers as onnxsim writes them: `Reshape(Gemm(Reshape(x, [-1, K]), W, b), Concat(Shape(x)[0:2], [N]))`."""
    model = onnx.load(path)
    graph = model.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    sums = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    nodes: list[onnx.NodeProto] = []
    numbers: dict[str, list[int]] = {"zero": [0], "two": [2]}
    done: set[str] = set()
    for node in graph.node:
        add = sums.get(node.output[0]) if node.op_type == "MatMul" else None
        bias = next((n for n in add.input if n in arrays), None) if add is not None else None
        if node.output[0] in done:
            continue
        if add is None or bias is None or node.input[1] not in arrays:
            nodes.append(node)
            continue
        (x, weight), out = node.input, node.output[0]
        rows, columns = arrays[weight].shape
        numbers |= {f"flat{rows}": [-1, rows], f"width{columns}": [columns]}
        nodes += [
            helper.make_node("Reshape", [x, f"flat{rows}"], [f"{out}.flat"]),
            helper.make_node("Gemm", [f"{out}.flat", weight, bias], [f"{out}.gemm"]),
            helper.make_node("Shape", [x], [f"{out}.shape"]),
            helper.make_node("Slice", [f"{out}.shape", "zero", "two", "zero"], [f"{out}.lead"]),
            helper.make_node("Concat", [f"{out}.lead", f"width{columns}"], [f"{out}.target"], axis=0),
            helper.make_node("Reshape", [f"{out}.gemm", f"{out}.target"], [add.output[0]]),
        ]
        done.add(add.output[0])
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in numbers.items())
    del graph.value_info[:]
    target = path.with_name("matrices.onnx")
    onnx.save(model, target)
    return target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copy(SOURCE.path, tmp_path / "model.onnx"))


def test_flat_gemms_are_the_plain_encoder(source: Path) -> None:
    path = matrices(source)
    assert sum(n.op_type == "Gemm" for n in load(path).graph) > 12
    model, summary = import_model(path)
    assert not summary.misses
    assert largest_difference(path, model) < 1e-5
    assert difference(import_model(source)[0], model) is None


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gemm_is_a_product_and_a_sum(transposed: int, with_bias: bool) -> None:
    model = gemm(with_bias, transB=transposed)
    before = ir.from_proto(ir.to_proto(model))
    assert ImportGemm()(model).modified
    assert [n.op_type for n in model.graph] == ["MatMul", "Add"]
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(*(session(m).run(None, {"x": x})[0] for m in (before, model)), atol=1e-6)


@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}])
def test_gemm_with_factors_is_left(attributes: dict[str, float]) -> None:
    assert not ImportGemm()(gemm(True, **attributes)).modified


def test_target_of_another_rank_is_left() -> None:
    """Three numbers of which the first two are one size and a constant are not the leading sizes."""
    body = (
        "g (float[B, S, 4] x, int64[1] n) => (float[P, Q, R] y) <float[4, 4] w = {%s}, int64[2] t = {-1, 4}, "
    )
    body += "int64[2] e = {2, 2}> { f = Reshape(x, t) \n m = MatMul(f, w) \n s = Concat<axis = 0>(n, e) "
    body += "\n y = Reshape(m, s) }"
    text = body % ", ".join(str(float(i)) for i in range(16))
    model = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 21]> {text}')
    before = ir.from_proto(ir.to_proto(model))
    ImportFlat()(model)
    feeds = {"x": np.ones((2, 3, 4), np.float32), "n": np.array([6], np.int64)}
    np.testing.assert_array_equal(*(session(m).run(None, feeds)[0] for m in (before, model)))


def gemm(with_bias: bool, **attributes: float) -> ir.Model:
    inputs = ["x", "w", "b"] if with_bias else ["x", "w"]
    rng = np.random.default_rng(0)
    weights = [("w", rng.random((4, 4))), ("b", rng.random(4))]
    graph = helper.make_graph(
        [helper.make_node("Gemm", inputs, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights if n in inputs],
    )
    opset = [helper.make_opsetid("", 21)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))

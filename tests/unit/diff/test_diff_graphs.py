"""What counts as a difference between two graphs, and what does not, case by case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bqc.diff import DiffReport, diff
from tests.support.edits import disguise
from tests.support.graphs import (
    constant_nodes,
    functions,
    inputs_as_initializers,
    narrow_ids,
    no_names,
    unsorted,
)

F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: str = "x",
    outputs: str = "y",
    opset: int = 18,
    dtype: int = F32,
    width: int = 4,
    functions: Sequence[onnx.FunctionProto] = (),
    **weights: np.ndarray,
) -> onnx.ModelProto:
    """A model over [n, width] values."""
    body = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, dtype, ["n", width]) for name in inputs.split()],
        [helper.make_tensor_value_info(name, dtype, ["n", width]) for name in outputs.split()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9, functions=list(functions))


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}:{outputs}", **attributes)


def compared(a: onnx.ModelProto, b: onnx.ModelProto, **options: float) -> DiffReport:
    return diff(ir.from_proto(a), ir.from_proto(b), **options)  # type: ignore[arg-type]


CHAIN = [node("Relu", "x", "a"), node("Add", "a w", "b"), node("Tanh", "b", "y")]
W = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize("oddity", [constant_nodes, unsorted, no_names, inputs_as_initializers])
def test_ways_to_write_one_graph(oddity: object) -> None:
    model = graph(CHAIN, w=W)
    odd = onnx.ModelProto()
    odd.CopyFrom(model)
    oddity(odd)  # type: ignore[operator]
    assert compared(model, odd).same
    assert compared(odd, model).same


def test_signature() -> None:
    plain = graph(CHAIN, w=W)
    renamed = graph([node("Relu", "z", "a"), *CHAIN[1:]], inputs="z", w=W)
    (change,) = compared(plain, renamed).signature
    assert (change.kind, change.what, change.a, change.b) == ("renamed", "input", "x", "z")
    assert compared(plain, renamed).nodes == []
    more = graph([*CHAIN, node("Neg", "a", "extra")], outputs="y extra", w=W)
    report = compared(plain, more)
    assert [(c.kind, c.what, c.b) for c in report.signature] == [("added", "output", "extra float[n, 4]")]
    assert [(c.kind, c.b) for c in report.nodes] == [("added", ["Neg Neg:extra"])]
    unused = graph(CHAIN, inputs="x unused", w=W)
    assert [(c.kind, c.what) for c in compared(unused, plain).signature] == [("removed", "input")]
    wide = graph(CHAIN, width=8, w=np.zeros(1, np.float32))
    kinds = {(c.kind, c.what) for c in compared(graph(CHAIN, w=np.zeros(1, np.float32)), wide).signature}
    assert kinds == {("changed", "input"), ("changed", "output")}
    older = compared(plain, graph(CHAIN, opset=17, w=W)).signature
    assert [(c.what, c.a, c.b) for c in older] == [("opset", "ai.onnx 18", "ai.onnx 17")]


def test_inputs_renamed_and_reordered_are_told_by_their_use() -> None:
    nodes = [node("Sub", "p q", "a"), node("Neg", "a", "y")]
    other = [node("Sub", "s t", "a"), node("Neg", "a", "y")]
    report = compared(graph(nodes, inputs="p q"), graph(other, inputs="t s"))
    assert {(c.a, c.b) for c in report.signature} == {("p", "s"), ("q", "t")}
    assert report.nodes == []


def test_narrow_inputs_are_a_change() -> None:
    model = graph([node("Neg", "x", "y")], dtype=I64)
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    narrow_ids(narrow)
    report = compared(model, narrow)
    assert [c.what for c in report.signature] == ["input"]
    assert [(c.kind, c.b) for c in report.nodes] == [("added", ["Cast"])] or "Cast" in report.nodes[0].b[0]


def test_nodes_inserted_removed_and_replaced() -> None:
    plain = graph(CHAIN, w=W)
    longer = graph([CHAIN[0], node("Erf", "a", "e"), node("Add", "e w", "b"), CHAIN[2]], w=W)
    report = compared(plain, longer)
    assert [(c.kind, c.a, c.b) for c in report.nodes] == [("added", [], ["Erf Erf:e"])]
    assert [(c.kind, c.a) for c in compared(longer, plain).nodes] == [("removed", ["Erf Erf:e"])]
    other = graph([node("Sigmoid", "x", "a"), *CHAIN[1:]], w=W)
    (change,) = compared(plain, other).nodes
    assert (change.kind, change.a, change.b) == ("replaced", ["Relu Relu:a"], ["Sigmoid Sigmoid:a"])


def test_attributes() -> None:
    def softmax(**attributes: int) -> onnx.ModelProto:
        return graph([node("Softmax", "x", "a", **attributes), node("Neg", "a", "y")])

    assert compared(softmax(), softmax(axis=-1)).same, "the default of opset 18"
    (change,) = compared(softmax(axis=0), softmax(axis=1)).nodes
    assert (change.kind, change.details) == ("changed", ["axis: 0 -> 1"])
    assert not compared(softmax(), softmax(axis=1)).same


def test_wiring() -> None:
    nodes = [node("Relu", "x", "a"), node("Tanh", "x", "b"), node("Sub", "a b", "y")]
    crossed = [*nodes[:2], node("Sub", "b a", "y")]
    (change,) = compared(graph(nodes), graph(crossed)).nodes
    assert change.details == ["input 0: Relu Relu:a -> Tanh Tanh:b", "input 1: Tanh Tanh:b -> Relu Relu:a"]
    moved = graph(CHAIN, outputs="b", w=W)
    report = compared(graph(CHAIN, outputs="y", w=W), moved)
    assert not report.same


def test_outputs_that_are_constants_or_inputs() -> None:
    relu = node("Relu", "x", "y")
    held = graph([relu], outputs="y w", w=W)
    assert compared(held, held).same
    node_held = onnx.ModelProto()
    node_held.CopyFrom(held)
    constant_nodes(node_held)
    assert compared(held, node_held).same
    assert compared(node_held, node_held).same
    assert [c.kind for c in compared(held, graph([relu], outputs="y w", w=W + 1)).weights] == ["changed"]
    through = graph([relu], outputs="y x")
    assert compared(through, through).same
    copied = graph([relu, node("Identity", "x", "z")], outputs="y z")
    assert not compared(through, copied).same


def test_weights_by_number_and_type() -> None:
    plain = graph(CHAIN, w=W)
    off = W.copy()
    off[2] += 1e-3
    report = compared(plain, disguise(graph(CHAIN, w=off)))
    (change,) = report.weights
    assert (change.kind, change.a, change.different, change.index) == ("changed", "w", 1, [2])
    assert change.values == [float(W[2]), float(off[2])]
    assert report.nodes == []
    assert compared(plain, graph(CHAIN, w=off), tolerance=2e-3).same
    assert not compared(plain, graph(CHAIN, w=off), tolerance=5e-4).same
    nan = np.array([np.nan, 1, np.inf, -np.inf], np.float32)
    assert compared(graph(CHAIN, w=nan), graph(CHAIN, w=nan)).same
    (change,) = compared(plain, graph(CHAIN, w=nan)).weights
    assert (change.different, change.index) == (3, [0])
    (change,) = compared(plain, graph(CHAIN, w=W[:1])).weights
    assert (change.kind, change.note) == ("shape", "shape [4] against [1]")


@pytest.mark.parametrize(("error", "kind"), [(0.0, "format"), (0.01, "requantised")])
def test_half_precision(error: float, kind: str) -> None:
    numbers = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    nodes = [node("MatMul", "x w", "y")]
    half = [node("Cast", "h", "w", to=F32), *nodes]
    stored = (numbers + np.float32(error) * (np.arange(16).reshape(4, 4) == 6)).astype(np.float16)
    report = compared(graph(nodes, w=numbers), graph(half, h=stored))
    assert [c.kind for c in report.nodes] == ["added"]
    assert not report.same
    same_slot = compared(graph([node("Cast", "h", "w", to=F32), *nodes], h=numbers), graph(half, h=stored))
    (change,) = same_slot.weights
    assert (change.kind, change.format_a, change.format_b) == (kind, "float", "float16")
    assert change.different == (0 if kind == "format" else 1)
    assert kind == "format" or change.index == [1, 2]


def test_a_shared_weight_may_be_stored_twice() -> None:
    def twice(second: np.ndarray) -> onnx.ModelProto:
        nodes = [node("MatMul", "x v", "a"), node("Relu", "a", "b"), node("MatMul", "b w", "y")]
        return graph(nodes, v=square, w=second)

    square = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    shared = graph([node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("MatMul", "b w", "y")], w=square)
    assert compared(shared, twice(square)).same
    assert compared(twice(square), shared).same
    assert [c.kind for c in compared(shared, twice(square + 1)).weights] == ["changed"]


def branch(then: str, other: str, constant: float = 1.0) -> onnx.ModelProto:
    """``If(flag, then(a, c), other(a, c))`` where the branches read a value of the outer graph."""

    def body(op: str, name: str) -> onnx.GraphProto:
        value = numpy_helper.from_array(np.full(4, constant, np.float32), "c")
        out = helper.make_tensor_value_info(name, F32, None)
        return helper.make_graph([helper.make_node(op, ["a", "c"], [name])], name, [], [out], [value])

    flag = np.array(True)
    chosen = node("If", "flag", "y", then_branch=body(then, "t"), else_branch=body(other, "e"))
    return graph([node("Relu", "x", "a"), chosen], flag=flag)


def test_subgraphs() -> None:
    plain = branch("Add", "Mul")
    assert compared(plain, branch("Add", "Mul")).same
    for changed, first in (
        (branch("Sub", "Mul"), "then_branch: subgraph of Add -> subgraph of Sub"),
        (branch("Add", "Mul", 2.0), "else_branch: subgraph of Mul -> subgraph of Mul"),
        (branch("Mul", "Add"), "else_branch: subgraph of Mul -> subgraph of Add"),
    ):
        (change,) = compared(plain, changed).nodes
        assert change.kind == "changed"
        assert change.details[0] == first
    rewired = branch("Add", "Mul")
    rewired.graph.node[0].op_type = "Tanh"
    assert [c.kind for c in compared(plain, rewired).nodes] == ["replaced"]


def test_functions() -> None:
    def calling(name: str, op: str) -> onnx.ModelProto:
        body = helper.make_function(
            "local", name, ["p"], ["q"], [helper.make_node(op, ["p"], ["q"])], [helper.make_opsetid("", 18)]
        )
        call = helper.make_node(name, ["x"], ["y"], domain="local", name="call")
        return graph([call], functions=[body])

    plain = calling("F", "Relu")
    assert compared(plain, calling("F", "Relu")).same
    assert compared(plain, calling("G", "Relu")).same, "what a function is called does not matter"
    report = compared(plain, calling("F", "Tanh"))
    assert [(c.what, c.a) for c in report.signature] == [("function", "local.F")]
    wrapped = graph(CHAIN, w=W)
    functions(wrapped)
    assert not compared(graph(CHAIN, w=W), wrapped).same

"""Constants become initializers; what does nothing at inference disappears."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from bqc.contract import Contract
from bqc.ir.counting import may_rewrite
from bqc.ir.growth import check_growth
from bqc.ir.match import constant, has_graphs, is_weight, rank, scalar
from bqc.ir.probe import Probe, ProbeError, Sizes

__all__ = ["ImportFold"]

_FOLD_LIMIT = 4096
_UNFOLDED = frozenset(("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"))


@dataclass(frozen=True)
class ImportFold(ir.passes.InPlacePass):
    """Remove what exporters leave behind.

    Before: `c = Constant(2.0)`, `y = Dropout(Identity(Cast(x; to=FLOAT)))` for float x, `Sqrt(2.0)`
    After: initializer `c`, `x`, initializer `1.414...`

    1. Constant nodes become initializers.
    2. Identity, inference-time Dropout, casts to the same type and products with 1 are bypassed.
    3. Nodes of small constants only are computed, but for lookups in tables.
    4. Nodes and initializers nobody reads are dropped.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        before = len(model.graph)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        for node in list(model.graph):
            _bypass(model.graph, node)
        for node in list(model.graph):
            _fold(model.graph, node)
        common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, len(model.graph) != before)


def _bypass(graph: ir.Graph, node: ir.Node) -> None:
    x = _unchanged(node)
    if x is None:
        return
    out = node.outputs[0]
    if any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:]):
        return
    if out.is_graph_output() and (x.is_graph_input() or x.is_graph_output() or is_weight(x)):
        return
    if may_rewrite(node):
        _replace(graph, node, x)


def _unchanged(node: ir.Node) -> ir.Value | None:
    """The input that the node hands on as it is."""
    x = node.inputs[0] if node.inputs else None
    if x is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Mul", "Div"):
        return _times_one(node)
    return x if _does_nothing(node, x) else None


def _times_one(node: ir.Node) -> ir.Value | None:
    one, other = node.inputs
    for x, factor in ((one, other), (other, one))[: 2 if node.op_type == "Mul" else 1]:
        narrow, wide = (None if value is None else rank(value) for value in (factor, x))
        if scalar(factor) == 1 and narrow is not None and wide is not None and narrow <= wide:
            return x
    return None


def _does_nothing(node: ir.Node, x: ir.Value) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        flag = constant(training)
        return training is None or (flag is not None and not flag.any())
    return node.op_type == "Cast" and x.dtype is not None and node.attributes["to"].as_int() == int(x.dtype)


def _replace(graph: ir.Graph, node: ir.Node, x: ir.Value) -> None:
    out = node.outputs[0]
    if out.is_graph_output():
        name, kind, shape = out.name, out.type, out.shape
        out.replace_all_uses_with(x, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        out.name = None
        x.name, x.type, x.shape = name, kind, shape
        return
    out.replace_all_uses_with(x)
    graph.remove(node, safe=True)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    inputs = [v for v in node.inputs if v is not None]
    if not inputs or len(node.outputs) != 1 or node.op_type in _UNFOLDED or node.outputs[0].is_graph_output():
        return
    if has_graphs(node):
        return
    if any(constant(v) is None for v in inputs) or _is_stored_weight(node) or _is_lookup(node):
        return
    check_growth(node)
    out = node.outputs[0]
    try:
        (result,) = Probe([out]).run({}, Sizes(1, 1))
    except ProbeError:
        return
    if result.size > _FOLD_LIMIT or not may_rewrite(node):
        return
    value = ir.Value(
        name=f"{out.name}.folded",
        type=ir.TensorType(ir.DataType.from_numpy(result.dtype)),
        shape=ir.Shape(result.shape),
        const_value=ir.tensor(np.asarray(result)),
    )
    graph.register_initializer(value)
    out.replace_all_uses_with(value)
    graph.remove(node, safe=True)


def _is_lookup(node: ir.Node) -> bool:
    """Of a table by constant ids: `import-embedding` knows them for those of types or positions."""
    table = node.inputs[0]
    return (
        node.op_type == "Gather"
        and table is not None
        and is_weight(table, 2)
        and table.dtype is not None
        and table.dtype.is_floating_point()
    )


def _is_stored_weight(node: ir.Node) -> bool:
    """A vector stored in half precision: `import-weights` keeps track of how it is stored."""
    source = node.inputs[0]
    return (
        node.op_type == "Cast"
        and source is not None
        and source.dtype is not None
        and source.dtype.is_floating_point()
        and source.shape is not None
        and len(source.shape) > 0
    )

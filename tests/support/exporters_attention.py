"""Encoders that are wired otherwise: more outputs, heads taken one by one, weights and biases in other shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.graphs import exporter

__all__ = ["EXPORTERS", "REWIRINGS"]


def attentions(model: onnx.ModelProto) -> None:
    """Attention weights and hidden states as further outputs, as `output_attentions` and `output_hidden_states`."""
    graph = model.graph
    weights = [n.output[0] for n in graph.node if n.op_type == "Softmax"]
    hidden = list(dict.fromkeys(query.input[0] for query, _, _, _ in _projections(graph)))
    known = {value.name for value in graph.output}
    for name, rank in (*((n, 3) for n in hidden), *((n, 4) for n in weights)):
        if name not in known:
            graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * rank))


def three_axes(model: onnx.ModelProto) -> None:
    """Weights `[1, K, N]` and biases `[1, 1, N]`."""
    products = {n.output[0]: n for n in model.graph.node if n.op_type == "MatMul"}
    tensors = {t.name: t for t in model.graph.initializer}
    for node in [n for layer in _projections(model.graph) for n in layer]:
        tensors[node.input[1]].dims.insert(0, 1)
    for node in model.graph.node:
        if node.op_type == "Add" and any(name in products for name in node.input):
            for name in node.input:
                if name in tensors and len(tensors[name].dims) == 1:
                    tensors[name].dims[:] = [1, 1, *tensors[name].dims]


def two_biases(model: onnx.ModelProto) -> None:
    """A second constant is added after each bias of an attention, and taken off the first."""
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    made = {n.output[0] for layer in _projections(graph) for n in layer}
    for node in list(graph.node):
        bias = next((tensors[name] for name in node.input if name in tensors), None)
        if node.op_type != "Add" or bias is None or made.isdisjoint(node.input):
            continue
        extra = np.linspace(-1, 1, bias.dims[0], dtype=np.float32)
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - extra, bias.name))
        out = node.output[0]
        node.output[0] = f"{out}.first"
        graph.initializer.append(numpy_helper.from_array(extra, f"{out}.second"))
        at = next(i for i, n in enumerate(graph.node) if n.output[0] == node.output[0])
        graph.node.insert(at + 1, helper.make_node("Add", [f"{out}.second", node.output[0]], [out]))


def _projections(graph: onnx.GraphProto) -> list[list[onnx.NodeProto]]:
    """Products with the weights of query, key, value and of the output of each layer, in graph order."""
    weights = {t.name for t in graph.initializer if len(t.dims) == 2}
    products = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    layers = []
    for at, first in enumerate(products):
        group = products[at : at + 4]
        if (
            len(group) == 4
            and len({n.input[0] for n in group[:3]}) == 1
            and group[3].input[0] != first.input[0]
        ):
            layers.append(group)
    return layers


REWIRINGS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "attentions": attentions,
    "three-axes": three_axes,
    "two-biases": two_biases,
}
"""Each changes a loaded model in place."""


EXPORTERS = {name: exporter(change, name) for name, change in REWIRINGS.items()}
"""From the path of a float model to the path of the rewired one, written beside it."""

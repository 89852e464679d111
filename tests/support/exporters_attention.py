"""Encoders that are wired otherwise: more outputs, heads taken one by one, weights and biases in other shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import helper

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
}
"""Each changes a loaded model in place."""


def _exporter(change: Callable[[onnx.ModelProto], None], name: str) -> Callable[[Path], Path]:
    def export(path: Path) -> Path:
        model = onnx.load(path)
        change(model)
        target = path.with_name(f"{path.stem}.{name}.onnx")
        onnx.save(model, target)
        return target

    return export


EXPORTERS = {name: _exporter(change, name) for name, change in REWIRINGS.items()}
"""From the path of a float model to the path of the rewired one, written beside it."""

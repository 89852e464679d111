"""Where a file keeps the labels of weights: with their tensors.

onnx_ir has `metadata_props` of values, and writes those of an initializer into a `value_info` of the initializer's own,
with its name, type and shape once more: 15 KiB of a BERT-base. `TensorProto` has `metadata_props` too.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

__all__ = ["Labels", "put_labels", "save_labelled", "take_labels"]

Labels = dict[str, dict[str, str]]
"""Metadata by name of the initializer."""


def save_labelled(model: ir.Model, path: Path) -> None:
    """Write a model file with the labels of the main graph's initializers at their tensors, which have none yet."""
    proto = ir.to_proto(model)
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for i in reversed(range(len(graph.value_info))):
        value = graph.value_info[i]
        tensor = tensors.get(value.name)
        if tensor is not None and not value.doc_string:
            tensor.metadata_props.extend(value.metadata_props)
            del graph.value_info[i]
    onnx.save(proto, path)


def take_labels(proto: onnx.ModelProto) -> Labels:
    """Remove the labels from the tensors of the main graph and return them."""
    labels: Labels = {}
    for tensor in proto.graph.initializer:
        if tensor.metadata_props:
            labels[tensor.name] = {entry.key: entry.value for entry in tensor.metadata_props}
            del tensor.metadata_props[:]
    return labels


def put_labels(model: ir.Model, labels: Labels) -> None:
    """Give them to the values."""
    for name, entries in labels.items():
        value = model.graph.initializers.get(name)
        if value is not None:
            value.metadata_props.update(entries)

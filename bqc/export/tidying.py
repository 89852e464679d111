"""Exported files as a person would have written them: names of the checkpoint, no notes of the exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ONE_FILE_LIMIT", "tidy"]

ONE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights that still go into the `.onnx` itself: protobuf ends at 2 GB."""


def tidy(path: Path, weights: str) -> None:
    """Initializers get their checkpoint names; with fp16 storage a Cast restores float32 before use."""
    import onnx_ir as ir

    model = ir.load(path)
    graph = model.graph
    _checkpoint_names(graph)
    casts: list[ir.Node] = []
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if weights != "fp16" or tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < 2:
            continue
        array = tensor.numpy()
        if np.abs(array).max() > np.finfo(np.float16).max:
            continue
        half = ir.Value(
            name=f"{value.name}.fp16",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.tensor(array.astype(np.float16)),
        )
        graph.register_initializer(half)
        cast = ir.node("Cast", [half], attributes={"to": int(ir.DataType.FLOAT)})
        wide, kept = cast.outputs[0], value.name
        wide.type, wide.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        value.replace_all_uses_with(wide)
        del graph.initializers[kept or ""]
        wide.name = kept
        casts.append(cast)
    if casts:
        graph.insert_before(graph[0], casts)
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in (v for node in graph for v in node.outputs):
        value.metadata_props.clear()
    model.producer_name, model.producer_version = "bqc export", None
    model.ir_version = min(model.ir_version, 10)
    big = sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value) > ONE_FILE_LIMIT
    for stale in path.parent.glob(path.name + ".*"):
        if not big:
            ir.external_data.load_to_model(model)
            stale.unlink()
    ir.save(model, path, external_data=f"{path.name}.data" if big else None)


def _checkpoint_names(graph: Any) -> None:
    """Exporters rename the weights they transpose; the bias beside them tells what they were called.

    A bias with several users is a merged duplicate and tells nothing.
    """
    for name, value in list(graph.initializers.items()):
        plain = name.removeprefix("model.")
        if plain != name and plain not in graph.initializers:
            value.name = plain
    for node in graph:
        if node.op_type != "Add":
            continue
        vectors = [v for v in node.inputs if v is not None and v.is_initializer() and len(v.uses()) == 1]
        bias = (vectors[0].name if vectors else None) or ""
        product = next(
            (v.producer() for v in node.inputs if v is not None and v.producer() is not None), None
        )
        weight = product.inputs[1] if product is not None and product.op_type == "MatMul" else None
        wanted = bias.removesuffix(".bias") + ".weight"
        if weight is None or not weight.is_initializer() or not bias.endswith(".bias"):
            continue
        if wanted not in graph.initializers:
            weight.name = wanted

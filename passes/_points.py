"""Quantisation points: the values of an encoder that are quantised, and which weights read them."""

from __future__ import annotations

import onnx_ir as ir

from bqc.ir.anatomy import Encoder, role
from bqc.passes._graph import key_of

__all__ = ["LAYER_POINTS", "PER_HEAD", "POINT_ROLES", "is_point", "points_of", "readers_of"]

LAYER_POINTS = (
    "attention.input",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.softmax",
    "attention.context",
    "attention.norm",
    "ffn.input",
    "ffn.gelu",
    "ffn.norm",
)
"""Quantisation points of a layer."""

_BEFORE = ("embedding:embedding.norm", "embedding:embedding.projection")
_AFTER = ("head:head.input", "head:pooler", "head:head.transform", "head:head.norm")
"""Quantisation points outside the layers."""

PER_HEAD = ("attention.query", "attention.key", "attention.value", "attention.context")
"""Points whose blocks end with the heads."""

_POINT_OPS = {
    "embedding.norm": ("LayerNormalization",),
    "embedding.projection": ("Add",),
    "attention.input": (),
    "attention.query": ("Add",),
    "attention.key": ("Add",),
    "attention.value": ("Add",),
    "attention.context": ("Reshape",),
    "attention.norm": ("LayerNormalization",),
    "ffn.input": (),
    "ffn.gelu": (),
    "ffn.norm": ("LayerNormalization",),
    "head.input": (),
    "pooler": ("Tanh",),
    "head.transform": ("Gelu", "Relu"),
    "head.norm": ("LayerNormalization",),
}
"""The nodes whose output is the point, by role; roles of a single node have any operator."""

POINT_ROLES = frozenset({*_POINT_OPS, "attention.softmax"})
"""Roles of nodes whose output may be a point."""


def is_point(node: ir.Node) -> bool:
    """Whether the node's output is a point, the probabilities aside."""
    ops = _POINT_OPS.get(role(node) or "")
    return ops is not None and (not ops or node.op_type in ops)


def points_of(model: ir.Model, found: Encoder) -> list[str]:
    """``layer:role`` of the points that the model has, in the order of the computation."""
    present = {key_of(node) for node in model.graph}
    points = [*_BEFORE, *(f"{i}:{p}" for i in range(found.layers) for p in LAYER_POINTS), *_AFTER]
    points = [p for p in points if p in present]
    if "head:head.norm" in points:
        # The activation before a LayerNormalization is not read by a linear.
        points.remove("head:head.transform")
    return points


def readers_of(point: str, layers: int) -> tuple[str, ...]:
    """``layer:role`` of the weights that a point may be multiplied with."""
    layer, kind = point.split(":")
    following = int(layer) + 1 if layer.isdigit() else 0
    head = ("head:pooler", "head:head.transform", "head:head")
    readers: dict[str, tuple[str, ...]] = {
        "embedding.norm": ("embedding:embedding.projection", "0:attention.query"),
        "embedding.projection": ("0:attention.query",),
        "attention.input": (f"{layer}:attention.query",),
        "attention.norm": (f"{layer}:ffn.intermediate",),
        "ffn.input": (f"{layer}:ffn.intermediate",),
        "ffn.gelu": (f"{layer}:ffn.output",),
        "ffn.norm": (f"{following}:attention.query",) if following < layers else head,
        "head.input": head,
        "pooler": ("head:head.transform", "head:head"),
        "head.transform": ("head:head",),
        "head.norm": ("head:head",),
    }
    return readers.get(kind, ())

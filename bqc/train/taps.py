"""Intermediate values by their anatomy names: what distillation compares and analysis looks at.

A tap is ``layer:role``. Of a role it is the value that leaves it: the sum with the bias of a linear, the output of a
norm, the scaled attention scores before the mask is added, the context with its heads side by side.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.anatomy import layer, nodes_of, role
from bqc.passes._graph import key_of, produced_by

__all__ = ["resolve", "tapped"]

_LAST = {
    "embedding.norm": ("LayerNormalization",),
    "embedding.projection": ("Add",),
    "attention.query": ("Add",),
    "attention.key": ("Add",),
    "attention.value": ("Add",),
    "attention.softmax": ("Softmax", "SoftmaxDequantize"),
    "attention.context": ("Reshape",),
    "attention.output": ("Add",),
    "attention.norm": ("LayerNormalization",),
    "ffn.intermediate": ("Add",),
    "ffn.gelu": ("Gelu", "Relu"),
    "ffn.output": ("Add",),
    "ffn.norm": ("LayerNormalization",),
    "pooler": ("Tanh",),
}
"""The operators that end a role."""


def resolve(model: ir.Model, patterns: Iterable[str]) -> tuple[str, ...]:
    """The taps ``layer:role`` that match patterns with ``*`` and ``?``, in graph order.

    Raises:
        BqcError: a pattern matches nothing.
    """
    known = list(_known(model))
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(known, pattern if ":" in pattern else f"*:{pattern}")
        if not found:
            near = difflib.get_close_matches(pattern, known, n=3) or sorted(
                {key.split(":")[1] for key in known}
            )
            raise BqcError(f"no value {pattern!r} in the model to tap; near: {', '.join(near)}")
        chosen.update(found)
    return tuple(key for key in known if key in chosen)


def tapped(model: ir.Model, taps: Iterable[str]) -> dict[str, ir.Value]:
    """Tap -> value. Raises BqcError for a tap that the model does not have."""
    known = _known(model)
    return {tap: known[key] for tap in taps for key in resolve(model, [tap])}


def _known(model: ir.Model) -> dict[str, ir.Value]:
    found: dict[str, ir.Value] = {}
    for node in nodes_of(model):
        kind = role(node) or ""
        if node.op_type in _LAST.get(kind, ()):
            found[key_of(node)] = node.outputs[0]
        if kind == "attention.softmax" and node.op_type in ("Softmax", "MaskedSoftmax"):
            found[f"{layer(node)}:attention.scores"] = _before_mask(node)
    return found


def _before_mask(softmax: ir.Node) -> ir.Value:
    scores = softmax.inputs[0]
    add = produced_by(scores, "Add") if softmax.op_type == "Softmax" else None
    bias = None if add is None or add.inputs[1] is None else add.inputs[1].producer()
    if add is not None and bias is not None and role(bias) == "attention.mask":
        scores = add.inputs[0]
    assert scores is not None, "a softmax has an input"
    return scores

"""Dropout, which exported graphs do not have, put back where the family has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from bqc.ir.anatomy import role

__all__ = ["dropout_of", "drops"]

_HIDDEN = ("hidden_dropout_prob", "dropout")
_ATTENTION = ("attention_probs_dropout_prob", "attention_dropout")
_CLASSIFIER = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout")

_AFTER = {
    "embedding.norm": ("LayerNormalization",),
    "attention.softmax": ("Softmax", "SoftmaxDequantize"),
    "attention.output": ("Add",),
    "ffn.output": ("Add",),
    "pooler": ("Tanh",),
    "head.transform": ("Gelu", "Relu"),
}
"""Role -> the operators after which dropout follows."""


def dropout_of(config: Mapping[str, Any]) -> dict[str, float]:
    """Probabilities by role, from the keys that transformers' configurations have."""
    hidden = _first(config, _HIDDEN, 0.0)
    attention = _first(config, _ATTENTION, 0.0)
    found = {
        "embedding.norm": hidden,
        "attention.softmax": attention,
        "attention.output": hidden,
        "ffn.output": hidden,
    }
    if any("Classification" in name for name in config.get("architectures") or ()):
        classifier = _first(config, _CLASSIFIER, hidden)
        found |= {"pooler": classifier, "head.transform": classifier}
    return {name: probability for name, probability in found.items() if probability}


def drops(node: ir.Node) -> bool:
    """Whether dropout follows the node."""
    return node.op_type in _AFTER.get(role(node) or "", ())


def _first(config: Mapping[str, Any], keys: tuple[str, ...], default: float) -> float:
    return next((float(config[key]) for key in keys if config.get(key) is not None), default)

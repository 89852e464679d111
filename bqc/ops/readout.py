"""What the outputs of an operator say in float: codes and exponents read back as the tensor they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.ops.reference import block_dequantize, softmax_dequantize

__all__ = ["read_float"]

Array = NDArray[Any]


def read_float(outputs: Sequence[Array], attributes: Mapping[str, Any]) -> Array | None:
    """The float tensor that a node's outputs stand for; None if they are neither float nor known codes.

    Codes int8 [..., K] with exponents int8 [..., n] (or [B, n], one for all tokens of a sequence) are dequantised by
    the node's own geometry: ``out_block`` and ``out_group``, or ``block`` and ``group``, blocks inside heads where it
    has ``heads``; not where sequences share exponents whose tokens lie one after another without padding. A single
    uint8 output [B, h, S, S] is the codes of a softmax.
    """
    first = outputs[0]
    if np.issubdtype(first.dtype, np.floating):
        return first
    if len(outputs) == 1:
        return softmax_dequantize(first) if first.dtype == np.uint8 and first.ndim == 4 else None
    if len(outputs) != 2 or outputs[1].dtype != np.int8 or first.dtype != np.int8:
        return None
    exponents = outputs[1]
    width = first.shape[-1]
    block = attributes.get("out_block", attributes.get("block", width))
    group = attributes.get("out_group", attributes.get("group", 0))
    if "heads" in attributes and "out_group" not in attributes:
        group = width // attributes["heads"]
    if exponents.ndim < first.ndim:
        exponents = exponents[:, None, :]
    elif exponents.shape[:-1] != first.shape[:-1]:
        return None
    return block_dequantize(
        first, np.broadcast_to(exponents, (*first.shape[:-1], exponents.shape[-1])), block=block, group=group
    )

"""Operators that make much out of little: a few bytes of shape can ask for more memory than there is."""

from __future__ import annotations

import math

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.match import constant

__all__ = ["GROWTH_LIMIT", "check_growth"]

GROWTH_LIMIT = 1 << 26
"""Elements that a node may make out of constants."""

# The input that holds the sizes; what is made has their product of elements, at least.
_SIZES = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Pad": 1, "Resize": 3}


def check_growth(node: ir.Node) -> None:
    """Raises BqcError for a node that makes more than GROWTH_LIMIT elements, as far as constants tell."""
    made = _elements(node)
    if made > GROWTH_LIMIT:
        raise BqcError(
            f"node {node.name!r} ({node.op_type}) makes {made:.3g} elements out of constants; no encoder needs that"
        )


def _elements(node: ir.Node) -> float:
    if node.domain not in ("", "ai.onnx"):
        return 0
    values = [constant(value) for value in node.inputs]
    if node.op_type == "Range" and len(values) == 3:
        if any(value is None or value.size != 1 for value in values):
            return 0
        start, limit, step = (float(value.item()) for value in values if value is not None)
        return abs((limit - start) / step) if step else 0
    at = _SIZES.get(node.op_type, len(values))
    sizes = values[at] if at < len(values) else None
    if sizes is None or sizes.size > 64:
        return 0
    numbers = [abs(float(n)) for n in sizes.reshape(-1)]
    if node.op_type == "Pad":
        return max(numbers, default=0)
    made = math.prod(numbers)
    if node.op_type == "Tile" and values[0] is not None:
        made *= values[0].size
    return made

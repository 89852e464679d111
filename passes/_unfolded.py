"""What a compiled model still multiplies in float, and why: weights that are stored in their format, and attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import onnx_ir as ir

from bqc.formats import BlockShift, Static
from bqc.formats.stored import WeightFormat, stored_format
from bqc.ir.anatomy import FloatPart, encoder, layer, role
from bqc.ops.registry import DOMAIN, OPERATORS
from bqc.passes._graph import FORMAT_KEY, attributes_of, key_of, produced_by
from bqc.plan import PLAN_KEY, Plan

__all__ = ["unfolded"]

_WITH_GROUPS = ("Block", "Sign", "Sparse")
"""Families whose products run on integers in the groups of their inputs."""


_OPERANDS = {
    "attention.scores": ("attention.query", "attention.key"),
    "attention.context": ("attention.softmax", "attention.value"),
}
"""The points that a product of attention multiplies."""


def unfolded(model: ir.Model) -> list[FloatPart]:
    """Every linear whose weight is dequantised before it is multiplied, and the products of attention that are float.

    Attention that is not recognised is not among them: the anatomy tells of it.
    """
    weights = [
        FloatPart(key_of(node), f"quantised, and multiplied in float: {_reason(node)}")
        for node in model.graph
        if node.domain == DOMAIN and node.op_type.endswith("DequantizeTiles")
    ]
    return weights + list(_attention(model))


def _attention(model: ir.Model) -> Iterator[FloatPart]:
    if PLAN_KEY not in model.metadata_props:
        return
    points, found = Plan.of(model).activations, encoder(model)
    named = {part.part for part in found.float_parts}
    lowered = any(node.domain == DOMAIN for node in model.graph)
    for node in model.graph:
        place = layer(node)
        if f"{place}:attention" in named:
            continue
        for product in _float_products(node):
            operands = _OPERANDS[product]
            formats = {operand: points.get(f"{place}:{operand}") for operand in operands}
            lacking = [operand for operand, fmt in formats.items() if fmt is None]
            if lacking:
                why = f"the plan has no point {' and no point '.join(lacking)}"
            elif lowered:
                why = _differing(formats, found.head_dim)
            else:
                continue
            yield FloatPart(f"{place}:{product}", f"multiplied in float: {why}")


def _float_products(node: ir.Node) -> Sequence[str]:
    """Roles of the products of attention that a node makes of float numbers."""
    if node.domain == DOMAIN and node.op_type.endswith("FloatAttention"):
        return tuple(_OPERANDS)
    kind = role(node) or ""
    return (kind,) if kind in _OPERANDS and (node.op_type, node.domain) == ("MatMul", "") else ()


def _differing(formats: Mapping[str, BlockShift | Static | None], head_dim: int) -> str:
    """Why a product of two points does not run on integers, and the format that would."""
    query, key = formats.get("attention.query"), formats.get("attention.key")
    if not isinstance(query, BlockShift) or not isinstance(key, BlockShift):
        return "what it reads is not quantised head by head"
    own = replace(query, block="row" if query.block == "tensor" else query.block, group=head_dim)
    return f"attention.query is {query} and attention.key {key}: write {own} for both"


def _reason(node: ir.Node) -> str:
    tiles = node.inputs[0]
    fmt = stored_format(tiles.metadata_props.get(FORMAT_KEY, "")) if tiles is not None else None
    product = next((user for user in node.outputs[0].consumers() if user.op_type == "MatMul"), None)
    if fmt is None or product is None or fmt.family not in _WITH_GROUPS:
        return "its input is float" if product is not None else "it is read otherwise than by a product"
    made = produced_by(product.inputs[0], "BlockDequantize", DOMAIN)
    if made is None:
        flat = produced_by(product.inputs[0], "Reshape")
        if flat is not None and produced_by(flat.inputs[0], "BlockDequantize", DOMAIN) is not None:
            return "its input has one exponent for the whole tensor"
        return "its input is float"
    return _difference(fmt, _full(node), _full(made)) or "what follows it is not its bias"


def _full(node: ir.Node) -> dict[str, Any]:
    return {**OPERATORS[node.op_type].attributes, **attributes_of(node)}


def _difference(fmt: WeightFormat, weight: dict[str, Any], given: dict[str, Any]) -> str | None:
    """What of a weight's geometry is not that of its input, and the format that would share it."""
    columns = weight["columns"]
    own, other = (one["group"] or columns for one in (weight, given))
    changes: dict[str, Any] = {}
    said = []
    if own != other:
        said.append(f"group {weight['group']}, its input {given['group']}")
        changes["group"] = given["group"]
    if fmt.family == "Block":
        ours, theirs = (min(one["block"], other) for one in (weight, given))
        if ours != theirs:
            said.append(f"blocks of {ours}, its input of {theirs}")
            changes["block"] = given["block"] if given["block"] < other else "row"
    if not said:
        return None
    text = f"{fmt} has {' and '.join(said)}"
    # Formats are dataclasses; which fields they have is their own matter.
    known = {field.name for field in fields(fmt)}  # type: ignore[arg-type]
    try:
        return f"{text}: write {replace(fmt, **changes)}" if set(changes) <= known else text  # type: ignore[type-var]
    except ValueError:  # not every block of an operator is one that a format can have
        return text

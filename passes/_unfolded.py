"""Weights of a compiled model that are stored in their format and still multiplied in float, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import onnx_ir as ir

from bqc.formats.stored import WeightFormat, stored_format
from bqc.ops.registry import DOMAIN, OPERATORS
from bqc.passes._graph import FORMAT_KEY, attributes_of, key_of, produced_by

__all__ = ["unfolded"]

_WITH_GROUPS = ("Block", "Sign", "Sparse")
"""Families whose products run on integers in the groups of their inputs."""


def unfolded(model: ir.Model) -> Iterator[tuple[str, str]]:
    """(``layer:role``, reason) of every linear whose weight is dequantised before it is multiplied."""
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type.endswith("DequantizeTiles"):
            yield key_of(node), _reason(node)


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

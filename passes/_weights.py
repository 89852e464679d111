"""Where the weights of an annotated model are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.formats import BlockShift
from bqc.formats.block_shift import ACTIVATION_BITS
from bqc.ir.anatomy import LINEAR_ROLES, TABLE_ROLES, role
from bqc.ir.match import is_transposed
from bqc.passes._graph import constant, key_of

__all__ = [
    "check_activations",
    "check_formats",
    "is_linear",
    "latents",
    "require_whole",
    "tied_tables",
    "weight_inputs",
    "weight_uses",
    "weights_digest",
]


def check_formats(bits: Iterable[int], block: int | str) -> None:
    """Raise BqcError if codes of any of these bits do not exist, or no such block does."""
    try:
        for one in bits:
            BlockShift(one, block)
    except ValueError as error:
        raise BqcError(str(error)) from None


def check_activations(bits: int, block: int | str) -> None:
    """Raise BqcError if no operator writes codes of so many bits, or there is no such block."""
    if bits not in ACTIVATION_BITS:
        raise BqcError(f"activations have no {bits} bits; use 8, 6 or 4")
    check_formats((bits,), block)


def latents(value: ir.Value | None) -> list[ir.Value]:
    """The constants that a weight is made of: itself, or two that are added (`split-ternary`); else none."""
    if value is None:
        return []
    add = value.producer()
    parts = [value] if add is None else list(add.inputs) if (add.op_type, add.domain) == ("Add", "") else []
    known = [
        part for part in parts if part is not None and part.is_initializer() and part.const_value is not None
    ]
    return known if len(known) == len(parts) else []


def require_whole(model: ir.Model) -> None:
    """Raise BqcError if weights are the sum of two constants: a plan chooses one format for a whole weight."""
    split = next((node for node, weight, _ in weight_uses(model) if not weight.is_initializer()), None)
    if split is not None:
        raise BqcError(
            f"node {split.name or split.outputs[0].name} multiplies by a weight that is split already; plan the model "
            "before split-ternary"
        )


def is_linear(node: ir.Node) -> bool:
    """Whether a node is labelled as the product of a linear."""
    return node.op_type == "MatMul" and not node.domain and role(node) in LINEAR_ROLES


def weight_inputs(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value, int]]:
    """(node, weight, reduction axis) of every labelled linear and lookup table, in graph order.

    The axis along which blocks run is 0 for ``MatMul(x, W[K, N])`` and 1 for ``Gather(table[V, H], ids)``.
    """
    return (use for use in weight_uses(model) if use[1].is_initializer())


def weight_uses(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value, int]]:
    """As `weight_inputs`, and weights that are the sum of two constants as well."""
    for node in model.graph:
        if is_linear(node):
            weight, axis = node.inputs[1], 0
        elif node.op_type == "Gather" and role(node) in TABLE_ROLES:
            weight, axis = node.inputs[0], 1
        else:
            continue
        if weight is not None and latents(weight):
            yield node, weight, axis


def tied_tables(model: ir.Model) -> dict[ir.Value, ir.Value]:
    """Weight [H, V] of a linear -> the lookup table [V, H] whose transpose it is, number by number.

    So it is with the decoder of a masked language model. Exporters store both, as a product and a lookup
    of standard ONNX read them.
    """
    inputs = list(weight_inputs(model))
    tables = dict.fromkeys(weight for _, weight, axis in inputs if axis == 1)
    linears = dict.fromkeys(weight for _, weight, axis in inputs if axis == 0)
    found = ((linear, next((t for t in tables if is_transposed(t, linear)), None)) for linear in linears)
    return {linear: table for linear, table in found if table is not None}


def weights_digest(model: ir.Model) -> str:
    """SHA-256 of the linears and lookup tables by their labels: of the same weights in another file it is the same."""
    known: dict[ir.Value, str] = {}
    found = []
    for node, weight, axis in weight_inputs(model):
        if role(node) not in LINEAR_ROLES + TABLE_ROLES:
            continue
        if weight not in known:
            data = np.asarray(constant(weight), dtype=np.float32, order="C")
            known[weight] = hashlib.sha256(data.data).hexdigest()
        found.append(f"{key_of(node)} {axis} {list(weight.shape or ())} {known[weight]}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()

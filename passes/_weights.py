"""Where the weights of an annotated model are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.formats import BlockShift
from bqc.ir.anatomy import LINEAR_ROLES, TABLE_ROLES, role

__all__ = ["check_formats", "weight_inputs"]


def check_formats(bits: Iterable[int], block: int | str) -> None:
    """Raise BqcError if codes of any of these bits do not exist, or no such block does."""
    try:
        for one in bits:
            BlockShift(one, block)
    except ValueError as error:
        raise BqcError(str(error)) from None


def weight_inputs(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value, int]]:
    """(node, weight, reduction axis) of every labelled linear and lookup table, in graph order.

    The axis along which blocks run is 0 for ``MatMul(x, W[K, N])`` and 1 for ``Gather(table[V, H], ids)``.
    """
    for node in model.graph:
        kind = role(node)
        if node.op_type == "MatMul" and kind in LINEAR_ROLES:
            weight, axis = node.inputs[1], 0
        elif node.op_type == "Gather" and kind in TABLE_ROLES:
            weight, axis = node.inputs[0], 1
        else:
            continue
        if weight is not None and weight.is_initializer() and weight.const_value is not None:
            yield node, weight, axis

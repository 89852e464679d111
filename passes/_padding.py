"""What of a compiled graph may run on the tokens of a batch alone, and who reads more than tokens of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from bqc.errors import BqcError
from bqc.ir.anatomy import role
from bqc.ops.registry import DOMAIN
from bqc.passes._graph import attributes_of, constant, key_of

__all__ = [
    "ATTENTION",
    "TOKENS",
    "by_token",
    "check_by_token",
    "check_readers",
    "mask_of",
    "once_a_sequence",
    "reads_first",
    "token_index",
]

TOKENS = "tokens"
"""The dimension of all tokens of a batch without padding."""
ATTENTION = ("BlockAttention", "FloatAttention")
"""Operators that are attention whole, and have a form for sequences without padding."""
_BY_TOKEN = frozenset(
    (
        "BinarizeCodes",
        "Binarize",
        "BinaryDequantize",
        "BlockDequantize",
        "BlockQuantize",
        "HalfRound",
        "LayerNorm",
        "Gelu",
        "Tanh",
        "Relu",
        "StaticQuantize",
        "Erf",
        "Add",
        "Sub",
        "Mul",
        "Div",
    )
)
"""Operators besides linears that compute a token's row from rows of that token."""
_ALONG = {"Split": 0, "Softmax": -1, "LogSoftmax": -1, "LpNormalization": -1}
"""Operators of one axis, and which it is where none is given."""
_OVER = frozenset(("Squeeze", "ReduceSum", "ReduceMean", "ReduceL2", "ReduceMax"))
"""Operators of some axes, a constant or an attribute."""
_HIDES = frozenset(("Mul", "Where"))
"""Operators by which a mask takes out what is at places that it hides."""


def check_by_token(nodes: Iterable[ir.Node]) -> None:
    """Raise BqcError where a node of the layers cannot run on tokens alone."""
    for node in nodes:
        if not _has_ragged_form(node) and not by_token(node):
            raise BqcError(
                f"padding cannot be taken out: {key_of(node)} is not compiled whole ({_called(node)} is not known to "
                "keep tokens apart)"
            )


def mask_of(nodes: Iterable[ir.Node]) -> ir.Value:
    """The mask [B, S] that the attention of every layer reads. Raises BqcError where there is none, or several."""
    masks = {node.inputs[-1] for node in nodes if node.domain == DOMAIN and node.op_type in ATTENTION}
    if not masks:
        raise BqcError(
            f"padding cannot be taken out: no layer's attention is compiled to {' or '.join(ATTENTION)}"
        )
    if len(masks) > 1:
        raise BqcError("padding cannot be taken out: layers have different attention masks")
    (mask,) = masks
    assert mask is not None, "attention has a mask"
    if not any(value.is_graph_input() for value in _data(mask)):
        raise BqcError(
            "padding cannot be taken out: the model has no attention mask, so that it knows no padding"
        )
    return mask


def check_readers(values: Iterable[ir.Value], inside: Collection[ir.Node], mask: ir.Value) -> None:
    """Raise BqcError where a node that is not inside makes something of the places that the mask hides."""
    masks = _made_of(mask)
    queue, seen = list(values), set()
    while queue:
        value = queue.pop()
        for user, _ in value.uses():
            if user in inside or user in seen or reads_first(user):
                continue
            seen.add(user)
            if user.op_type in _HIDES and any(other in masks for other in user.inputs):
                continue
            if not by_token(user) and not _inside_tokens(user):
                raise BqcError(
                    f"padding cannot be taken out: {_called(user)} of {key_of(user)} reads places that the mask hides"
                )
            queue += user.outputs


def reads_first(node: ir.Node) -> bool:
    """Whether a node takes the first token of every sequence, and nothing else."""
    index = token_index(node)
    return index is not None and index.size == 1 and index.ndim <= 1 and not index.any()


def once_a_sequence(node: ir.Node) -> bool:
    """Whether a node is known to see one row a sequence: what only first tokens are read of."""
    shape = node.outputs[0].shape
    return shape is not None and len(shape) == 2 and str(shape[0]) != TOKENS


def token_index(node: ir.Node) -> NDArray[Any] | None:
    """Which tokens of [B, S, ...] a node gathers, if it does that and a constant says it."""
    if node.op_type != "Gather" or node.domain or attributes_of(node).get("axis", 0) != 1:
        return None
    return constant(node.inputs[1])


def by_token(node: ir.Node) -> bool:
    """Whether every row [..., K] that a node makes follows from the same rows of its inputs, and from constants."""
    if node.domain == DOMAIN and "Linear" in node.op_type:
        return not _has_ragged_form(node)
    constants = [value for value in node.inputs if value is not None and value.is_initializer()]
    if node.op_type == "MatMul":
        return constants == [node.inputs[1]] and len(constants[0].shape or ()) == 2
    wide = [value for value in constants if len(value.shape or ()) > 1]
    if node.op_type == "LayerNormalization":
        return attributes_of(node).get("axis", -1) == -1 and not wide
    return node.op_type in _BY_TOKEN and not wide


def _has_ragged_form(node: ir.Node) -> bool:
    return node.domain == DOMAIN and (node.op_type in ATTENTION or node.op_type.endswith("QuantizeValues"))


def _inside_tokens(node: ir.Node) -> bool:
    """Whether a node works along axes of [B, S, ...] behind the first two alone."""
    given = attributes_of(node)
    if node.op_type in _ALONG:
        axes = [given.get("axis", _ALONG[node.op_type])]
    elif node.op_type in _OVER:
        stated = constant(node.inputs[1]) if len(node.inputs) > 1 else given.get("axes")
        axes = [] if stated is None else [int(axis) for axis in stated]
    else:
        return False
    value = node.inputs[0]
    rank = 0 if value is None or value.shape is None else len(value.shape)
    return rank > 2 and bool(axes) and all(axis % rank >= 2 for axis in axes)


def _data(value: ir.Value) -> Iterator[ir.Value]:
    """A value and all that it is computed from, but for sizes."""
    queue, seen = [value], {value}
    while queue:
        yield (one := queue.pop())
        node = one.producer()
        if node is None or node.op_type == "Shape":
            continue
        new = [v for v in node.inputs if v is not None and v not in seen]
        seen.update(new)
        queue += new


def _made_of(mask: ir.Value) -> set[ir.Value]:
    """Values that a mask, or what it is made of, is all there is to: those that pooling multiplies with."""
    found = {value for value in _data(mask) if not value.is_initializer()}
    queue = list(found)
    while queue:
        for user, _ in queue.pop().uses():
            others = [v for v in user.inputs if v is not None and not v.is_initializer()]
            if user.domain == DOMAIN or role(user) == "embedding.word" or not all(v in found for v in others):
                continue
            new = [value for value in user.outputs if value not in found]
            found.update(new)
            queue += new
    return found


def _called(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name}"

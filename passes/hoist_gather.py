"""What only first tokens are read of is computed for first tokens only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import take_place
from bqc.ops.registry import DOMAIN
from bqc.passes._graph import constant, dims, infer_types, standard_node
from bqc.passes._padding import by_token, token_index

__all__ = ["HoistGather", "hoist"]

_PRODUCTS = ("BlockLinear", "SignLinear", "SparseLinear", "XnorLinear", "HalfLinear", "IndexLinear")


@dataclass(frozen=True)
class HoistGather(ir.passes.InPlacePass):
    """Move the gather of a token above the operators that work on every token alone.

    Before::

        c, e = BlockLinearAddNorm(x [B, S, K], ex, ..., r [B, S, H], er)
        first = Gather(c, 0; axis=1), Gather(e, 0; axis=1)

    After::

        first = BlockLinearAddNorm(Gather(x, 0; axis=1), Gather(ex, 0; axis=1), ..., Gather(r, ...), Gather(er, ...))

    again and again, up to the attention of the last layer: of a classifier, three quarters of that layer's work. Only
    where nothing else reads what the operator makes, and of operators of ``ai.bqc`` and residual ``Add`` of their
    products, where these are not folded: that of an output linear in float ends it. Contract: exact.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, hoist(model, {DOMAIN}) > 0)


def hoist(model: ir.Model, domains: Collection[str]) -> int:
    """Do what `HoistGather` does for operators of some domains; returns above how many.

    It is exact for those of ``ai.bqc``. A float product may sum one row in another order than many.
    """
    count = 0
    for node in reversed(list(model.graph)):
        gathers = _gathers(node) if node.domain in domains or _adds_residual(node) else {}
        if gathers and may_rewrite(node):
            _hoist(model, node, gathers)
            count += 1
    return count


def _gathers(node: ir.Node) -> dict[ir.Node, ir.Value]:
    """The gathers that are all there is to read of a node, with what they read, if one before it gives the same."""
    read = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    if not by_token(node) or not all(_has_tokens(value) for value in [*_tokens(node), *read]):
        return {}
    found: dict[ir.Node, ir.Value] = {}
    for value in read:
        readers = [user for user, _ in value.uses()]
        if value.is_graph_output() or not all(_takes_a_token(user) for user in readers):
            return {}
        found.update(dict.fromkeys(readers, value))
    which = {str(constant(user.inputs[1])) for user in found}
    return found if len(which) == 1 else {}


def _has_tokens(value: ir.Value) -> bool:
    """Whether a value is [B, S, K]. One of a single row for all tokens is not."""
    return value.shape is not None and len(value.shape) == 3 and value.shape[1] != 1


def _adds_residual(node: ir.Node) -> bool:
    if node.op_type != "Add" or node.domain or any(v is None or v.is_initializer() for v in node.inputs):
        return False
    products = [producer for v in node.inputs if v is not None and (producer := v.producer()) is not None]
    return any(one.domain == DOMAIN and one.op_type in _PRODUCTS for one in products)


def _takes_a_token(node: ir.Node) -> bool:
    index = token_index(node)
    return index is not None and index.ndim == 0


def _tokens(node: ir.Node) -> list[ir.Value]:
    """Inputs [B, S, K] of a node, each once."""
    return list(dict.fromkeys(v for v in node.inputs if v is not None and not v.is_initializer()))


def _hoist(model: ir.Model, node: ir.Node, gathers: dict[ir.Node, ir.Value]) -> None:
    first = next(iter(gathers))
    index = first.inputs[1]
    assert index is not None, "a Gather has an index"
    for value in _tokens(node):
        batch, _, width = dims(value)
        assert value.dtype is not None, "compiled values are typed"
        new = standard_node(
            "Gather", [value, index], {"axis": 1}, like=first, dtype=value.dtype, shape=[batch, width]
        )
        model.graph.insert_before(node, new)
        for at, other in enumerate(node.inputs):
            if other is value:
                node.replace_input_with(at, new.outputs[0])
    if node.domain == DOMAIN:
        infer_types(node)
    else:
        for value in dict.fromkeys(gathers.values()):
            batch, _, width = dims(value)
            value.shape = ir.Shape([batch, width])
    for gather, value in gathers.items():
        take_place(gather.outputs[0], value)
        model.graph.remove(gather, safe=True)

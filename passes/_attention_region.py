"""Where an attention may be: a Softmax between three linears and the input of a fourth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from bqc.ir.explain import Explanation, NoMatch
from bqc.ir.match import Linear, as_linear, is_product, is_weight, walk_back

__all__ = ["Region", "context_of", "in_order", "regions"]


@dataclass(frozen=True)
class Region:
    """One attention as found: three linears in, the merged context out."""

    softmaxes: tuple[ir.Node, ...]
    """One, or one a head in the order in which heads are merged."""
    product: ir.Value
    query: Linear
    key: Linear
    value: Linear
    context: ir.Value


def regions(graph: ir.Graph, misses: Explanation | None = None) -> list[Region]:
    """What may be an attention; Softmaxes between the same linears and the same context are its heads."""
    found: dict[tuple[ir.Value, ...], Region] = {}
    for softmax in [n for n in graph if n.op_type == "Softmax"]:
        try:
            one = _find(softmax)
        except NoMatch as no:
            if misses is not None:
                misses.add("attention", softmax, str(no), no.depth)
            continue
        ends = (one.query.out, one.key.out, one.value.out, one.context)
        before = found.get(ends)
        heads = one.softmaxes if before is None else (*before.softmaxes, softmax)
        found[ends] = replace(one, softmaxes=heads)
    return [replace(one, softmaxes=in_order(one.softmaxes, one.context)) for one in found.values()]


def in_order(softmaxes: tuple[ir.Node, ...], context: ir.Value) -> tuple[ir.Node, ...]:
    """Heads as the Concat of their contexts has them; as they come where it does not tell."""
    merged = walk_back(context, lambda v: (p := v.producer()) is not None and p.op_type == "Concat")
    node = merged[0].producer() if merged and len(softmaxes) > 1 else None
    parts = () if node is None else node.inputs
    heads = [walk_back(v, lambda v: v.producer() in softmaxes) for v in parts if v is not None]
    order = tuple(n for found in heads for v in found if (n := v.producer()) is not None)
    return order if len(order) == len(softmaxes) else softmaxes


def _find(softmax: ir.Node) -> Region:
    scores_in = softmax.inputs[0]
    assert scores_in is not None, "Softmax has an input"
    products = walk_back(scores_in, is_product)
    if len(products) != 1:
        raise NoMatch(f"{len(products)} products of two activations feed the Softmax, not one", 0)
    scores = products[0].producer()
    assert scores is not None, "a product has a producer"
    query = _linear_behind(scores.inputs[0], "query")
    key = _linear_behind(scores.inputs[1], "key")
    context, operand = context_of(softmax)
    value = _linear_behind(context.inputs[operand], "value")
    return Region((softmax,), products[0], query, key, value, _merged(context.outputs[0]))


def _linear_behind(value: ir.Value | None, what: str) -> Linear:
    found = [] if value is None else walk_back(value, lambda v: as_linear(v) is not None)
    linear = as_linear(found[0]) if len(found) == 1 else None
    if linear is None:
        raise NoMatch(f"the {what} comes from {len(found)} linears, not one", 1)
    return linear


def context_of(softmax: ir.Node) -> tuple[ir.Node, int]:
    """The product of attention weights and values, and which operand the values are.

    Raises:
        NoMatch: none follows the Softmax.
    """
    seen, queue = set[ir.Value](), [softmax.outputs[0]]
    while queue and len(seen) < 40:
        value = queue.pop(0)
        seen.add(value)
        for use in value.consumers():
            if use.op_type == "MatMul":
                at = 1 - list(use.inputs).index(value)
                if not is_weight(use.inputs[at]):
                    return use, at
            elif use.op_type not in ("Shape", "Size"):
                queue.extend(v for v in use.outputs if v not in seen)
    raise NoMatch("no product with the values follows the Softmax", 2)


def _merged(context: ir.Value) -> ir.Value:
    """Where the context enters the output linear."""
    value = context
    for _ in range(12):
        uses = [u for u in value.consumers() if u.op_type not in ("Shape", "Size")]
        if any(u.op_type == "MatMul" and u.inputs[0] is value and is_weight(u.inputs[1], 2) for u in uses):
            return value
        if len(uses) != 1:
            break
        value = uses[0].outputs[0]
    raise NoMatch("the context does not reach an output linear", 3)

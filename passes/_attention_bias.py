"""Position biases of attention scores: found by what they add, kept as they are written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import EMBEDDING, label
from bqc.ir.explain import NoMatch
from bqc.ir.match import is_weight, walk_back
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.ir.rewrite import between

__all__ = ["label_bias", "position_bias"]

_SIZES = Sizes(2, 5)
_MOST_INPUTS = 4


def position_bias(graph: ir.Graph, scores: ir.Value, product: ir.Value) -> ir.Value | None:
    """The value `[1|B, 1|h, S, S]` that is added to the product of queries and keys, beside the mask.

    A mask adds nothing while it hides nothing, where it is 1 or where it is 0: what adds something then too is a bias.

    Raises:
        NoMatch: there is more than one.
    """
    found = [term for term in _addends(scores, product) if _adds_something(graph, term)]
    if len(found) > 1:
        raise NoMatch(f"{len(found)} different biases are added to the scores", 5)
    return found[0] if found else None


def label_bias(bias: ir.Value) -> None:
    """Label the nodes and weights that make a bias, or the constant it is: layer `embedding`, role `attention.bias`."""
    if bias.producer() is None:
        label(bias, EMBEDDING, "attention.bias")
    queue, seen = [bias], set[ir.Node]()
    while queue:
        node = queue.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        label(node, EMBEDDING, "attention.bias")
        for value in node.inputs:
            if value is not None and is_weight(value, 2):
                label(value, EMBEDDING, "attention.bias")
            # A bias is made for the sizes of hidden states, which are not part of it.
            elif value is not None and node.op_type != "Shape":
                queue.append(value)


def _addends(scores: ir.Value, product: ir.Value) -> Iterator[ir.Value]:
    """Operands of sums on the way from the product to the scores that do not come from the product."""
    for node in between(scores, [product]):
        if node.op_type != "Add":
            continue
        sides = [v for v in node.inputs if v is not None]
        own = [v for v in sides if not walk_back(v, lambda x: x is product)]
        if len(own) == 1:
            yield from _terms(own[0])


def _terms(value: ir.Value) -> Iterator[ir.Value]:
    node = value.producer()
    if node is not None and node.op_type == "Add":
        for operand in node.inputs:
            if operand is not None:
                yield from _terms(operand)
    else:
        yield value


def _adds_something(graph: ir.Graph, value: ir.Value) -> bool:
    if value.producer() is None and value.const_value is None:
        return False
    try:
        probe = Probe([value])
        sizes = _SIZES.within(graph)
        read = [v for v in graph.inputs if probe.depends_on(v)]
        for numbers in itertools.product((0, 1), repeat=min(len(read), _MOST_INPUTS)):
            filled = (*numbers, *[1] * (len(read) - len(numbers)))
            feeds = {
                v: np.full((sizes.batch, sizes.sequence), number, v.dtype.numpy() if v.dtype else np.int64)
                for v, number in zip(read, filled, strict=True)
            }
            (found,) = probe.run(feeds, sizes)
            square = found.shape[-2:] == (sizes.sequence, sizes.sequence)
            if found.ndim != 4 or not square or not np.any(found):
                return False
    except ProbeError:
        return False
    return True

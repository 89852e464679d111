"""What attention does beside queries, keys and values: it may hide keys, the same ones from every query."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import role
from bqc.ir.explain import NoMatch
from bqc.ir.match import data_inputs, is_weight, size_of
from bqc.ir.probe import Probe, Sizes

__all__ = ["require_one_mask", "require_plain_terms"]

_LONGEST = 512
"""A window that reaches further than this on both sides is not told from a plain mask."""


def require_one_mask(graph: ir.Graph, probe: Probe, boundary: Collection[ir.Value]) -> None:
    """At most one input of `probe` beside the `boundary` has values that reach its outputs; sizes of others may.

    Raises:
        NoMatch: segments, positions or ids decide, too, what is hidden.
    """
    read: dict[ir.Value, set[ir.Value]] = {v: {v} for v in probe.inputs.values() if v not in boundary}
    for node in probe.nodes:
        whose = set[ir.Value]().union(*(read.get(v, ()) for v in data_inputs(node)))
        read.update(dict.fromkeys(node.outputs, whose))
    found = set[ir.Value]().union(*(read.get(v, ()) for v in probe.outputs))
    words = [n for n in graph if n.op_type == "Gather" and role(n) == "embedding.word"]
    if any(n.inputs[1] in found for n in words):
        raise NoMatch("the scores depend on the ids, otherwise than by hiding one padding id", 6)
    if len(found) > 1:
        names = " and ".join(sorted(repr(v.name) for v in found))
        raise NoMatch(f"the scores depend on {names}, not on one mask", 6)


def require_plain_terms(
    graph: ir.Graph,
    probe: Probe,
    boundary: Collection[ir.Value],
    mask: ir.Value | None,
    bias: ir.Value | None,
    known: set[ir.Value],
) -> None:
    """What scores or weights are combined with treats all queries alike, and all keys that `mask` shows.

    Run on a sequence as long as the position table, as a window of local attention is not seen on a short one. `bias`
    is not looked at. Layers share terms: those in `known` are not run again.

    Raises:
        NoMatch: one does not.
    """
    terms = [v for v in _free(probe, boundary, bias) if v not in known]
    if not terms:
        return
    stop = [] if mask is None or mask.is_graph_input() else [mask]
    alone = Probe(terms, stop)
    sizes = Sizes(1, _longest(graph)).within(graph)
    for shown in (sizes.sequence, (sizes.sequence + 1) // 2):
        pattern = np.zeros((sizes.batch, sizes.sequence), np.int64)
        pattern[:, :shown] = 1
        feeds = {}
        if mask is not None and alone.depends_on(mask):
            feeds[mask] = pattern.astype(mask.dtype.numpy() if mask.dtype else np.int64)
        for term, found in zip(terms, alone.run(feeds, sizes), strict=True):
            rows = found.reshape(-1, found.shape[-1] if found.ndim else 1)
            if (rows != rows[:1]).any():
                raise NoMatch(f"{term.name!r} is not the same for every query in {sizes.sequence} tokens", 7)
            if rows.shape[1] == sizes.sequence and any(
                (part != part[:1]).any() for part in (rows[0, :shown], rows[0, shown:])
            ):
                raise NoMatch(f"{term.name!r} tells more than two kinds of keys apart", 7)
    known.update(terms)


def _free(probe: Probe, boundary: Collection[ir.Value], bias: ir.Value | None) -> Sequence[ir.Value]:
    """Computed values, not from the boundary, that meet values from it; not sizes."""
    made, found = set(boundary), dict[ir.Value, None]()
    for node in probe.nodes:
        inputs = [v for v in node.inputs if v is not None]
        if made.isdisjoint(inputs):
            continue
        made.update(node.outputs)
        found.update(dict.fromkeys(t for v in inputs if v not in made for t in _terms(v, bias)))
    return [v for v in found if v.dtype not in (ir.DataType.INT64, ir.DataType.INT32)]


def _terms(value: ir.Value, bias: ir.Value | None) -> Iterator[ir.Value]:
    node = value.producer()
    if node is None or value is bias:
        return
    if bias is not None and node.op_type == "Add":
        for operand in node.inputs:
            if operand is not None:
                yield from _terms(operand, bias)
    else:
        yield value


def _longest(graph: ir.Graph) -> int:
    lookups = [n for n in graph if n.op_type == "Gather" and role(n) == "embedding.position"]
    return min([_LONGEST, *(size_of(n.inputs[0], 0) for n in lookups if is_weight(n.inputs[0], 2))])

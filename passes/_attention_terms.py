"""What attention does beside queries, keys and values: it may hide keys, the same ones from every query."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import role
from bqc.ir.explain import NoMatch
from bqc.ir.match import is_weight, size_of
from bqc.ir.probe import Probe, Sizes
from bqc.passes._attention_mask import Mask, feeds_of

__all__ = ["require_plain_terms"]

_LONGEST = 512
"""A window that reaches further than this on both sides is not told from a plain mask."""


def require_plain_terms(
    graph: ir.Graph,
    probe: Probe,
    boundary: Collection[ir.Value],
    masks: Sequence[Mask],
    bias: ir.Value | None,
    known: set[ir.Value],
    *,
    padded_queries: bool = True,
) -> None:
    """What scores or weights are combined with treats all queries alike, and all keys that `masks` show.

    Run on a sequence as long as the position table, as a window of local attention is not seen on a short one. `bias`
    is not looked at, nor are queries that are padding without `padded_queries`. Layers share terms: those in `known`
    are not run again.

    Raises:
        NoMatch: one does not.
    """
    terms = [v for v in _free(probe, boundary, bias) if v not in known]
    if not terms:
        return
    stop = [mask.value for mask in masks if not mask.value.is_graph_input()]
    alone = Probe(terms, stop)
    sizes = Sizes(1, _longest(graph)).within(graph)
    for shown in (sizes.sequence, (sizes.sequence + 1) // 2):
        pattern = np.zeros((sizes.batch, sizes.sequence), np.int64)
        pattern[:, :shown] = 1
        feeds = {v: given for v, given in feeds_of(masks, pattern).items() if alone.depends_on(v)}
        for term, found in zip(terms, alone.run(feeds, sizes), strict=True):
            cut = [size for size in found.shape[-2:] if size not in (1, sizes.sequence)]
            if found.ndim > 1 and cut:
                raise NoMatch(
                    f"{term.name!r} has {cut[-1]} tokens where the text has {sizes.sequence}: the graph cuts it off; "
                    "export the model without that, and cut texts before",
                    7,
                )
            if not padded_queries and found.ndim > 1 and found.shape[-2] == sizes.sequence:
                found = found[..., :shown, :]
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

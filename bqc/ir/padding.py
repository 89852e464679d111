"""Key-padding masks that are not plain `[B, S]` inputs: written once as one, and marked.

A rule that knows a computed value to be a 0/1 key-padding mask `[B, S]` marks it. The attention rule then stops at
it, as it stops at a graph input, and need not see through how it was computed. What it makes of them is said in
`passes/_attention_mask.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bqc.ir.build import Writer, dims

__all__ = ["mark_padding", "marked_padding", "write_first_tokens"]

_KEY = "bqc.padding_mask"
_I64 = ir.DataType.INT64


def mark_padding(mask: ir.Value) -> ir.Value:
    """`mask[B, S]` int64 is 0 or 1, and tells keys to attend to from padding."""
    mask.meta[_KEY] = True
    return mask


def marked_padding(graph: ir.Graph) -> Iterator[ir.Value]:
    """The computed padding masks of a graph."""
    return (out for node in graph for out in node.outputs if _KEY in out.meta)


def write_first_tokens(w: Writer, like: ir.Value, ends: ir.Value, starts: ir.Value | None = None) -> ir.Value:
    """The mask `[B, S]` int64 of the positions from `starts[B]` (0) to before `ends[B]`; S is that of `like[B, S]`."""
    batch, sequence = (dims(like) or [None, None])[:2]
    boolean = ir.DataType.BOOL
    length = w.op("Shape", like, shape=[1], dtype=_I64, start=1, end=2)
    limit = w.op("Squeeze", length, shape=[], dtype=_I64)
    zero, one = w.shared("position_first", np.int64(0)), w.shared("position_step", np.int64(1))
    steps = w.op("Range", zero, limit, one, shape=[sequence], dtype=_I64)
    column = w.shared("mask_column", np.array([1], np.int64))

    def bound(value: ir.Value) -> ir.Value:
        wide = w.op("Cast", value, shape=[batch], dtype=_I64, to=int(_I64))
        return w.op("Unsqueeze", wide, column, shape=[batch, 1], dtype=_I64)

    inside = w.op("Less", steps, bound(ends), shape=[batch, sequence], dtype=boolean)
    if starts is not None:
        after = w.op("GreaterOrEqual", steps, bound(starts), shape=[batch, sequence], dtype=boolean)
        inside = w.op("And", inside, after, shape=[batch, sequence], dtype=boolean)
    return mark_padding(w.op("Cast", inside, shape=[batch, sequence], dtype=_I64, to=int(_I64)))

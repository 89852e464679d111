"""Mask inputs of other ranks and kinds are read once as 0/1 key-padding masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import FLT_MAX, Writer, dims
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import explanation
from bqc.ir.inputs import LEAST_SHOWN
from bqc.ir.match import is_weight
from bqc.ir.notes import note
from bqc.ir.padding import mark_padding

__all__ = ["ImportMask"]

_I64 = ir.DataType.INT64
_FLOAT = ir.DataType.FLOAT
_FLOATS = (_FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_HALF_LOW = -1e4
"""What hides a key in half precision, which has no -FLT_MAX."""
_SOFTMAX = frozenset(("Softmax", "Exp"))
_ENDS = frozenset(("MatMul", "Gemm", "Einsum", "LayerNormalization"))
_MOVES = frozenset(("Unsqueeze", "Squeeze", "Reshape", "Expand", "Identity", "Cast", "Transpose", "Slice"))


@dataclass(frozen=True)
class ImportMask(ir.passes.InPlacePass):
    """Put a plain mask `[B, S]` between a mask input of another form and what reads it.

    Before: `Add(scores, mask[B, 1, 1, S])`, mask float, 0 for keys and very low for padding
    After: `m[B, S] = Cast(GreaterOrEqual(Squeeze(mask), -50))`, `Add(scores, Unsqueeze((1 - m) * -FLT_MAX))`

    1. Inputs `[B, 1, S]` and `[B, 1, 1, S]`, of 0 and 1 (any type) or additive.
    2. Float inputs `[B, S]` that are added to what a softmax reads.

    `import-attention` then finds `m`, or refuses. A mask that has more than one row for a sequence is refused by name.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for value in model.graph.inputs:
            shape = dims(value)
            if shape is None or not 2 <= len(shape) <= 4 or not value.uses():
                continue
            added = value.dtype in _FLOATS and _added(value)
            if not added and (len(shape) == 2 or not _may_be_zeros_and_ones(value)):
                continue
            if any(size != 1 for size in shape[1:-1]):
                if added or _named_mask(value):
                    square = shape[-2] == shape[-1]
                    what = "masks every query on its own" if square else "is of more than one text a row"
                    text = (
                        f"input {value.name!r} {shape} {what}; bqc takes key-padding masks [batch, sequence]"
                    )
                    explanation(model).add("mask", value.consumers()[0], text, 20)
                continue
            if not may_rewrite(value):
                continue
            _rewrite(model, value, added)
            modified = True
        return ir.passes.PassResult(model, modified)


def _may_be_zeros_and_ones(value: ir.Value) -> bool:
    """Integers survive the way through a plain mask; numbers do not, and only a name says that they are a mask."""
    return (
        value.dtype is None
        or value.dtype.is_integer()
        or value.dtype == ir.DataType.BOOL
        or _named_mask(value)
    )


def _named_mask(value: ir.Value) -> bool:
    return "mask" in (value.name or "").lower()


def _added(value: ir.Value) -> bool:
    """Does it reach a sum of two computed values unchanged, and the sum a softmax?"""
    queue = [value]
    while queue:
        here = queue.pop()
        for use in here.consumers():
            if use.op_type == "Add" and not any(is_weight(v) for v in use.inputs) and _normalised(use):
                return True
            if use.op_type in _MOVES and use.inputs[0] is here:
                queue.extend(use.outputs)
    return False


def _normalised(node: ir.Node) -> bool:
    """Is what it computes read by a softmax, written out or not, before any product?"""
    queue, seen = [node], {node}
    while queue:
        for use in queue.pop().outputs[0].consumers():
            if use.op_type in _SOFTMAX:
                return True
            if use.op_type not in _ENDS and use not in seen:
                seen.add(use)
                queue.append(use)
    return False


def _rewrite(model: ir.Model, value: ir.Value, added: bool) -> None:
    graph = model.graph
    shape = dims(value) or []
    plain = [shape[0], shape[-1]]
    w = Writer(graph, source=value.name or "")
    axes = w.shared(f"mask_inner_{len(shape)}", np.arange(1, len(shape) - 1, dtype=np.int64))
    dtype = value.dtype or _FLOAT
    m = value if len(shape) == 2 else w.op("Squeeze", value, axes, shape=plain, dtype=dtype)
    if added:
        if dtype != _FLOAT:
            m = w.op("Cast", m, shape=plain, to=int(_FLOAT))
        limit = w.shared("mask_hidden", np.float32(LEAST_SHOWN))
        m = w.op("GreaterOrEqual", m, limit, shape=plain, dtype=ir.DataType.BOOL)
        note(
            model, f"input {value.name!r} is an additive mask; keys with less than {LEAST_SHOWN:g} are hidden"
        )
    m = mark_padding(w.op("Cast", m, shape=plain, dtype=_I64, to=int(_I64)))
    kind = _FLOAT if added else dtype
    back = w.op("Cast", m, shape=plain, dtype=kind, to=int(kind))
    if added:
        off = w.op("Sub", w.shared("mask_one", np.float32(1)), back, shape=plain)
        name, low = ("mask_low", -FLT_MAX) if dtype == _FLOAT else ("mask_half_low", _HALF_LOW)
        back = w.op("Mul", off, w.shared(name, np.float32(low)), shape=plain)
        if dtype != _FLOAT:
            back = w.op("Cast", back, shape=plain, dtype=dtype, to=int(dtype))
    if len(shape) > 2:
        back = w.op("Unsqueeze", back, axes, shape=shape, dtype=dtype)
    first = w.nodes[0]
    value.replace_all_uses_with(back)
    first.replace_input_with(0, value)
    graph.insert_before(graph[0], w.nodes)

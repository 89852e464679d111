"""How far the tensors of two aligned models are apart, down the graph: where two models part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bqc.diff.alignment import Alignment
from bqc.diff.feeds import InputChoice, choose_runs
from bqc.diff.lineage import common_label, is_folded
from bqc.diff.running import exposed, fetch
from bqc.diff.view import View
from bqc.ops.readout import read_float
from bqc.passes._graph import attributes_of

__all__ = ["NOISE", "Drift", "TensorDrift", "measure_drift"]

Array = NDArray[Any]

NOISE = 1e-5
"""Relative error up to which two float computations count as the same."""

_AT_ONCE = 64
"""Tensors fetched in one run, which bounds the memory."""


@dataclass(frozen=True)
class TensorDrift:
    """How far one tensor is from its counterpart, over positions that hold a token.

    Attributes:
        layer, role: where in the anatomy.
        a, b: names of the values.
        relative: root of the squared difference over the squared numbers of the larger one.
        max_abs: largest absolute difference.
        cosine: of both as one vector.
    """

    layer: str
    role: str
    a: str
    b: str
    relative: float
    max_abs: float
    cosine: float


@dataclass(frozen=True)
class Drift:
    """Every aligned tensor, in the order of the first model.

    Attributes:
        inputs: what the models were run on, in words.
        tensors: how far each is apart.
        parted: index of the first whose relative error is above `NOISE`; None if none is.
        jump: index of the later tensor at which the error grows most over all before; None if it never doubles.
        skipped: aligned values whose shapes differ.
    """

    inputs: str
    tensors: list[TensorDrift]
    parted: int | None
    jump: int | None
    skipped: list[str]


class _Gap:
    """Sums over the runs of one pair of values."""

    def __init__(self) -> None:
        self.seen = False
        self.squares = self.first = self.second = self.dot = self.largest = 0.0

    @np.errstate(invalid="ignore", over="ignore")
    def add(self, first: Array, second: Array) -> None:
        self.seen = True
        x, y = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
        gap = np.where(x == y, 0.0, x - y)
        self.squares += float(gap @ gap)
        self.first += float(x @ x)
        self.second += float(y @ y)
        self.dot += float(x @ y)
        self.largest = float(np.maximum(self.largest, np.abs(gap).max(initial=0.0)))

    def result(self, layer: str, role: str, a: str, b: str) -> TensorDrift:
        norms = float(np.sqrt(self.first) * np.sqrt(self.second))
        larger = max(self.first, self.second)
        relative = float(np.sqrt(self.squares / larger)) if larger else 0.0
        cosine = self.dot / norms if norms else float(self.first == self.second)
        return TensorDrift(layer, role, a, b, relative, self.largest, cosine)


def measure_drift(
    a: View, b: View, alignment: Alignment, choice: InputChoice, threads: int | None = None
) -> Drift:
    """Run both models on the same inputs and compare every aligned tensor that is float, or stands for one.

    Raises:
        BqcError: a model cannot be run, or no inputs can be made up.
    """
    pairs = list(_pairs(a, b, alignment))
    gaps = {pair: _Gap() for pair in pairs}
    skipped: dict[tuple[ir.Value, ir.Value], None] = {}
    with ExitStack() as stack:
        running, paths = zip(
            *(
                stack.enter_context(exposed(view, [v for pair in pairs for v in _shown(pair[side])], threads))
                for side, view in enumerate((a, b))
            ),
            strict=True,
        )
        files = [
            view.path if view.path is not None else path for view, path in zip((a, b), paths, strict=True)
        ]
        description, runs = choose_runs(
            (a, b), alignment, (running[0], running[1]), (files[0], files[1]), choice
        )
        for ours, theirs, mask in runs:
            for start in range(0, len(pairs), _AT_ONCE):
                part = pairs[start : start + _AT_ONCE]
                got = [
                    fetch(running[side], _names(part, side), feeds)
                    for side, feeds in enumerate((ours, theirs))
                ]
                for pair in part:
                    first, second = (_read(value, arrays) for value, arrays in zip(pair, got, strict=True))
                    if first is None or second is None:
                        continue
                    first, second = _same_places(first, second, mask)
                    if first.shape != second.shape:
                        skipped[pair] = None
                        continue
                    gaps[pair].add(first, second)
    tensors = [_result(a, b, pair, gap) for pair, gap in gaps.items() if pair not in skipped and gap.seen]
    names = [f"{one.name} against {other.name}" for one, other in skipped]
    return Drift(description, tensors, *_parting(tensors), names)


def _pairs(a: View, b: View, alignment: Alignment) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Aligned values: outputs of matched nodes one by one, or the first where a node's outputs are one value."""
    for node in a.nodes:
        twin = alignment.partner.get(node)
        if twin is None:
            continue
        coded = any(is_folded(one) for one in (node, twin))
        count = 1 if coded else min(len(node.outputs), len(twin.outputs))
        for one, other in zip(node.outputs[:count], twin.outputs[:count], strict=True):
            if one.name and other.name and (coded or (_float(one) and _float(other))):
                yield one, other


def _float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _shown(value: ir.Value) -> Sequence[ir.Value]:
    """The outputs that together are the value."""
    node = value.producer()
    assert node is not None, "aligned values are made by nodes"
    return list(node.outputs) if is_folded(node) else [value]


def _names(pairs: Sequence[tuple[ir.Value, ir.Value]], side: int) -> list[str]:
    return list(dict.fromkeys(value.name or "" for pair in pairs for value in _shown(pair[side])))


def _read(value: ir.Value, arrays: dict[str, Array]) -> Array | None:
    node = value.producer()
    assert node is not None, "aligned values are made by nodes"
    return read_float([arrays[v.name or ""] for v in _shown(value)], attributes_of(node))


def _same_places(first: Array, second: Array, mask: NDArray[np.bool_] | None) -> tuple[Array, Array]:
    """Positions that hold a token; where one of both has first tokens only, these."""
    if abs(first.ndim - second.ndim) == 1 and len(first) == len(second):
        longer = max(first, second, key=np.ndim)
        if longer.ndim == 3:
            return (first[:, 0], second) if longer is first else (first, second[:, 0])
    return _kept(first, mask), _kept(second, mask)


def _kept(array: Array, mask: NDArray[np.bool_] | None) -> Array:
    """Positions that hold a token, of a tensor [batch, sequence, ...]."""
    return array[mask] if mask is not None and array.shape[:2] == mask.shape and array.ndim > 2 else array


def _result(a: View, b: View, pair: tuple[ir.Value, ir.Value], gap: _Gap) -> TensorDrift:
    one, other = (value.producer() for value in pair)
    assert one is not None
    assert other is not None, "aligned values are made by nodes"
    layer, role = common_label(a, one, b, other)
    return gap.result(layer, role, pair[0].name or "", pair[1].name or "")


def _parting(tensors: Sequence[TensorDrift]) -> tuple[int | None, int | None]:
    """The first tensor that is off, and the later one at which the error grows most, if it more than doubles."""
    parted = next((i for i, t in enumerate(tensors) if not t.relative <= NOISE), None)
    if parted is None:
        return None, None
    worst, growth, jump = tensors[parted].relative, 2.0, None
    for i, tensor in enumerate(tensors[parted + 1 :], parted + 1):
        if tensor.relative > growth * worst:
            growth, jump = tensor.relative / worst, i
        worst = max(worst, tensor.relative)
    return parted, jump

"""Comparing two weights, a part at a time so that neither is ever copied whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.diff.weights import Weight

__all__ = ["WeightGap", "compare_weights"]

Array = NDArray[Any]

CHUNK = 1 << 20
"""Elements compared at a time."""


@dataclass(frozen=True)
class WeightGap:
    """How far two weights are apart.

    Attributes:
        same: the same bits in the same format, or within the tolerance.
        within_format: one is a float weight and the other's codes are those of this very weight: the same
            weight, within its format's error; None where that cannot be told.
        elements: compared.
        different: elements that differ; of a quantised weight, whose codes are not those of the float one.
        relative: root of the squared difference over the squared numbers of the larger one.
        largest: largest absolute difference.
        index: where it is; for a quantised weight with wrong codes, the first of these.
        values: both numbers there.
        note: why nothing was compared, if nothing was.
    """

    same: bool
    within_format: bool | None = None
    elements: int = 0
    different: int = 0
    relative: float = 0.0
    largest: float = 0.0
    index: tuple[int, ...] = ()
    values: tuple[float, float] | None = None
    note: str = ""


def compare_weights(one: Weight, other: Weight, tolerance: float = 0.0) -> WeightGap:
    """Compare two weights; differences of at most ``tolerance`` are none between weights of one format."""
    if one.shape != other.shape:
        return WeightGap(False, note=f"shape {list(one.shape)} against {list(other.shape)}")
    if one.parts and other.parts and one.format == other.format and _same_parts(one, other):
        return WeightGap(True, elements=int(np.prod(one.shape)))
    first, second = one.numbers(), other.numbers()
    if first is None or second is None:
        return WeightGap(False, note=f"format {(one if first is None else other).format} is not known")
    if first.dtype == object or second.dtype == object:
        same = first.dtype == second.dtype and bool(np.array_equal(first, second))
        return WeightGap(same, elements=first.size, note="" if same else "other texts")
    if not (one.parts or other.parts):
        if first.dtype == second.dtype and _same_bits(first, second):
            return WeightGap(True, elements=first.size)
    gap = _measured(first, second)
    if first.dtype != second.dtype and not (one.parts or other.parts):
        return replace(gap, within_format=_is_cast(first, second) or _is_cast(second, first))
    if one.format == other.format and gap.largest <= tolerance:
        return WeightGap(True, elements=gap.elements, largest=gap.largest, relative=gap.relative)
    if bool(one.parts) == bool(other.parts):
        return gap
    return _within(gap, one, other, first, second)


def _same_parts(one: Weight, other: Weight) -> bool:
    ours, theirs = one.arrays(), other.arrays()
    return ours.keys() == theirs.keys() and all(_same_bits(ours[part], theirs[part]) for part in ours)


def _same_bits(first: Array, second: Array) -> bool:
    return first.shape == second.shape and all(a.tobytes() == b.tobytes() for a, b, _ in _chunks(first, second))


def _chunks(first: Array, second: Array) -> Iterator[tuple[Array, Array, int]]:
    """Both a few rows at a time, with the number of elements before."""
    if first.ndim == 0:
        yield first.reshape(1), second.reshape(1), 0
        return
    width = int(np.prod(first.shape[1:]))
    step = max(1, CHUNK // max(width, 1))
    for start in range(0, len(first), step):
        yield first[start : start + step], second[start : start + step], start * width


@np.errstate(over="ignore")
def _is_cast(first: Array, second: Array) -> bool:
    return all(np.array_equal(a.astype(b.dtype), b, equal_nan=b.dtype.kind == "f") for a, b, _ in _chunks(first, second))


@np.errstate(invalid="ignore", over="ignore")
def _measured(first: Array, second: Array) -> WeightGap:
    different, squares, totals, largest, at = 0, 0.0, np.zeros(2), -1.0, 0
    for a, b, start in _chunks(first, second):
        x, y = a.astype(np.float64), b.astype(np.float64)
        gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        gap = np.where(np.isnan(gap), np.inf, gap)  # NaN in one of them only
        different += int(np.count_nonzero(gap))
        squares += float(np.einsum("i,i->", gap.ravel(), gap.ravel()))
        totals += np.nansum(x * x), np.nansum(y * y)
        top = int(gap.argmax()) if gap.size else 0
        if gap.size and gap.ravel()[top] > largest:
            largest, at = float(gap.ravel()[top]), start + top
    index = tuple(int(i) for i in np.unravel_index(at, first.shape)) if first.size else ()
    values = (float(first[index]), float(second[index])) if first.size else None
    total = float(totals.max())
    relative = float(np.sqrt(squares / total)) if total else 0.0
    same = different == 0 and first.dtype == second.dtype
    return WeightGap(same, None, first.size, different, relative, max(largest, 0.0), index, values)


def _within(gap: WeightGap, one: Weight, other: Weight, first: Array, second: Array) -> WeightGap:
    """Are the codes of the quantised weight those of the float one?"""
    packed, plain = (one, second) if one.parts else (other, first)
    known = packed.known_format
    assert known is not None, "its numbers were read"
    agrees = known.agrees(packed.arrays(), plain.T if packed.turned else plain)
    agrees = agrees.T if packed.turned else agrees
    wrong = agrees.size - int(np.count_nonzero(agrees))
    if not wrong:
        return WeightGap(False, True, gap.elements, 0, gap.relative, gap.largest, gap.index, gap.values)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmin(agrees)), agrees.shape))
    values = float(first[index]), float(second[index])
    return WeightGap(False, False, gap.elements, wrong, gap.relative, gap.largest, index, values)

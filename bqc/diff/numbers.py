"""Comparing two weights, some rows at a time so that neither is ever held whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.diff.weights import Weight
from bqc.formats.stored import ROW_STEP

__all__ = ["WeightGap", "compare_weights"]

Array = NDArray[Any]

CHUNK = 1 << 17
"""Elements compared at a time: they stay in cache."""


@dataclass(frozen=True)
class WeightGap:
    """How far two weights are apart.

    Attributes:
        same: the same numbers in the same format, or within the tolerance.
        within_format: whether one weight, stored in the other's format, is the other: the same weight within
            its format's error; None where that cannot be told.
        elements: compared.
        different: elements that differ; for another format, elements that are not within its error.
        relative: root of the squared difference over the squared numbers of the larger one.
        largest: largest absolute difference.
        index: where it is; the first element that is not within a format's error, if there is one.
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
    for weight in (one, other):
        if weight.parts and weight.known_format is None:
            return WeightGap(False, note=f"format {weight.format} is not known to this version of bqc")
    if "string" in (one.format, other.format):
        texts = [np.asarray(weight.tensor.numpy()).tolist() for weight in (one, other)]
        return WeightGap(texts[0] == texts[1], elements=int(np.prod(one.shape)), note="texts")
    turned = next((weight.turned for weight in (one, other) if weight.parts), False)
    found = _measure(_Rows(one, turned), _Rows(other, turned))
    shape = one.shape[::-1] if turned else one.shape
    index = tuple(int(i) for i in np.unravel_index(found.at, shape)) if found.elements else ()
    same = one.format == other.format
    return WeightGap(
        same=same and found.largest <= tolerance,
        within_format=None if found.judge is None else not found.outside,
        elements=found.elements,
        different=found.unequal if found.judge is None else found.outside,
        relative=found.relative,
        largest=found.largest,
        index=index[::-1] if turned else index,
        values=found.values,
    )


class _Rows:
    """A weight as a matrix of float rows, read some rows at a time."""

    def __init__(self, weight: Weight, turned: bool) -> None:
        self.weight = weight
        self.turned = turned
        shape = weight.shape[::-1] if turned else weight.shape
        self.count = shape[0] if shape else 1
        self.width = int(np.prod(shape[1:]))
        self.known = weight.known_format if weight.turned == turned else None
        self._parts = weight.arrays() if self.known is not None else {}
        self._whole = None if self.known is not None else weight.numbers()

    def part(self, start: int, stop: int) -> dict[str, Array]:
        """What rows are stored in."""
        assert self.known is not None, "asked of packed rows only"
        return self.known.rows(self._parts, start, stop)

    def read(self, start: int, stop: int) -> Array:
        """The rows, [rows, width]."""
        if self.known is not None:
            return self.known.restore(self.part(start, stop), (stop - start, self.width))
        assert self._whole is not None, "known formats have numbers"
        if self.turned:
            return np.ascontiguousarray(self._whole[:, start:stop].T)
        return self._whole.reshape(self.count, self.width)[start:stop]

    def admits(self, start: int, numbers: Array) -> NDArray[np.bool_]:
        """Which numbers become the rows from ``start`` when they are stored in this format."""
        stop = start + len(numbers)
        if self.known is not None:
            return self.known.agrees(self.part(start, stop), numbers)
        own = self.read(start, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = numbers.astype(own.dtype)
        return np.asarray((cast == own) | ((cast != cast) & (own != own)))


class _Sums:
    """What one pass over two weights adds up."""

    def __init__(self, judge: _Rows | None) -> None:
        self.judge = judge
        self.elements = self.unequal = self.outside = self.at = 0
        self.largest, self.squares, self.totals = 0.0, 0.0, np.zeros(2)
        self.values: tuple[float, float] | None = None

    @property
    def relative(self) -> float:
        total = float(self.totals.max())
        return float(np.sqrt(self.squares / total)) if total else 0.0

    def add(self, x: Array, y: Array) -> None:
        """The next rows."""
        gap = _difference(x, y)
        self.unequal += int(np.count_nonzero(gap))
        self.squares += _square(gap)
        self.totals += _square(x), _square(y)
        top = int(gap.argmax())
        if not self.outside and (gap.flat[top] > self.largest or self.values is None):
            self._point(top, x, y)
        self.largest = max(self.largest, float(gap.flat[top]))

    def hold(self, inside: NDArray[np.bool_], x: Array, y: Array) -> None:
        """Which of these rows are within the format's error; the first that are not are pointed at."""
        outside = inside.size - int(np.count_nonzero(inside))
        if outside and not self.outside:
            self._point(int(np.argmin(inside)), x, y)
        self.outside += outside

    def _point(self, index: int, x: Array, y: Array) -> None:
        self.at = self.elements + index
        self.values = float(x.flat[index]), float(y.flat[index])


def _measure(one: _Rows, other: _Rows) -> _Sums:
    sums = _Sums(_judge(one, other))
    step = max(ROW_STEP, CHUNK // max(one.width, 1) // ROW_STEP * ROW_STEP)
    for start in range(0, one.count if one.width else 0, step):
        stop = min(start + step, one.count)
        x, y = one.read(start, stop), other.read(start, stop)
        sums.add(x, y)
        if sums.judge is not None:
            sums.hold(sums.judge.admits(start, y if sums.judge is one else x), x, y)
        sums.elements += x.size
    return sums


def _judge(one: _Rows, other: _Rows) -> _Rows | None:
    """The weight in whose format the other may fit: the quantised one, or the one of the narrower type."""
    ours, theirs = one.weight, other.weight
    if ours.format == theirs.format or (ours.parts and theirs.parts):
        return None
    if ours.parts or theirs.parts:
        packed = one if ours.parts else other
        return packed if packed.known is not None else None
    sizes = ours.tensor.dtype.bitwidth, theirs.tensor.dtype.bitwidth
    return None if sizes[0] == sizes[1] else one if sizes[0] < sizes[1] else other


@np.errstate(invalid="ignore", over="ignore")
def _difference(x: Array, y: Array) -> Array:
    """Magnitude of x - y: 0 where both are NaN or the same infinity, infinite where only one is NaN."""
    if x.dtype != np.float32 or y.dtype != np.float32:
        x, y = x.astype(np.float64), y.astype(np.float64)
    gap: Array = np.abs(x - y)
    if not np.isfinite(gap.max()):
        gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, gap)
        gap = np.where(np.isnan(gap), np.inf, gap)
    return gap


def _square(array: Array) -> float:
    """Sum of squares; numbers that are not finite do not count."""
    flat = (
        array.ravel()
        if array.dtype.kind == "f" and array.dtype.itemsize >= 4
        else array.ravel().astype(np.float64)
    )
    total = float(np.vdot(flat, flat))
    return total if np.isfinite(total) else float(np.square(flat[np.isfinite(flat)], dtype=np.float64).sum())

"""``Binary`` and ``Ternary``: weights that are signs times a scale, and the exact split of one into two of the other.

``value = sum over planes of scale * sign``. Sources: binary weight networks (Rastegari et al., arXiv 1603.05279);
ternary weight networks (Li et al., arXiv 1605.04711); ternary weight splitting (Bai et al., BinaryBERT, arXiv
2012.15701).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import sanitize

__all__ = ["Binary", "Ternary", "split_ternary"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]

_THRESHOLD = 0.7
"""Of the mean magnitude: what is smaller is 0 in a ternary weight."""
_SPANS = ("tensor", "row")


@dataclass(frozen=True)
class _Signs:
    """Planes of signs.

    Args:
        span: what shares a scale, ``"tensor"`` or ``"row"`` (an output neuron, or a token of a lookup table).

    Raises ValueError for any other span.
    """

    span: str = "tensor"
    planes: ClassVar[int]

    def __post_init__(self) -> None:
        if self.span not in _SPANS:
            raise ValueError(f"{type(self).__name__} has no scale a {self.span!r}; it is one of tensor, row")

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.span})"

    @classmethod
    def parse(cls, text: str) -> _Signs:
        """Inverse of `str`. Raises ValueError for anything else."""
        match = re.fullmatch(rf"{cls.__name__}\((\w+)\)", text.replace(" ", ""))
        if not match:
            raise ValueError(f"{text!r} is not a format; write it like {cls.__name__}(tensor)")
        return cls(match[1])

    def bits_per_element(self, rows: int, columns: int) -> float:
        """Stored bits an element of a matrix ``[rows, columns]``, float32 scales included."""
        scales = rows if self.span == "row" else 1
        return self.planes + 32.0 * scales / (rows * columns)

    def dequantize(self, signs: I8, scales: F32) -> F32:
        """float32 [N, K] from signs int8 [planes, N, K] and scales float32 [planes, N or 1], added plane by plane."""
        result: F32 = signs[0] * scales[0][:, None]
        for plane, scale in zip(signs[1:], scales[1:], strict=True):
            result = result + plane * scale[:, None]
        return result.astype(np.float32)

    def _rows(self, magnitudes: F64) -> F64:
        """Magnitudes [N, K] as one row for each scale."""
        return magnitudes if self.span == "row" else magnitudes.reshape(1, -1)


@dataclass(frozen=True)
class Binary(_Signs):
    """One plane: the mean magnitude times the sign, 0 counting as positive."""

    planes: ClassVar[int] = 1

    def quantize(self, w: NDArray[Any]) -> tuple[I8, F32]:
        """Signs int8 [1, N, K] and scales float32 [1, N or 1] of a matrix [N, K] of any values (see `sanitize`)."""
        clean = sanitize(w).astype(np.float64)
        scales = self._rows(np.abs(clean)).mean(axis=1)
        return np.where(clean >= 0, 1, -1).astype(np.int8)[None], scales.astype(np.float32)[None]


@dataclass(frozen=True)
class Ternary(_Signs):
    """Two planes of one scale, which add up or cancel: -1, 0 or 1 times the mean of the magnitudes that are not 0.

    Magnitudes up to 0.7 times their mean are 0. A row of zeros has scale 0.
    """

    planes: ClassVar[int] = 2

    def quantize(self, w: NDArray[Any]) -> tuple[I8, F32]:
        """Signs int8 [2, N, K] and scales float32 [2, N or 1] of a matrix [N, K] of any values (see `sanitize`)."""
        clean = sanitize(w).astype(np.float64)
        kept, scales = _ternary(self._rows(np.abs(clean)))
        positive = clean > 0
        first = np.where(kept.reshape(clean.shape), positive, True)
        second = np.where(kept.reshape(clean.shape), positive, False)
        half = (scales / 2).astype(np.float32)
        return np.where(np.stack([first, second]), 1, -1).astype(np.int8), np.stack([half, half])


def split_ternary(w: NDArray[np.float64], span: str = "tensor") -> tuple[F64, F64]:
    """Two weights whose sum is ``w``, and the sum of whose `Binary` forms is `Ternary` of ``w``.

    Args:
        w: float64 [N, K], finite.
        span: of all three formats.

    Returns:
        float64 [N, K] each. Exact up to rounding: ``a`` and ``b`` of BinaryBERT, with the sign that its code gives
        to the sums over zeros; the printed formula has the opposite one, and breaks the identity for
        weights whose mean is not 0. Where these are so skewed that its ``a`` leaves (0, 1), zeros take turns instead.
    """
    flat = w if span == "row" else w.reshape(1, -1)
    magnitudes = np.abs(flat)
    kept, scales = _ternary(magnitudes)
    main, small = np.where(kept, magnitudes, 0.0).sum(axis=1), np.where(kept, 0.0, magnitudes)
    # Of an element that becomes 0 one weight takes all, and both a shift that cancels: the paper's choice is by sign.
    first_takes = flat > 0
    share = _share(main, small, first_takes)
    # A choice by turns, in order of magnitude, evens out any skew: what is left is less than one kept magnitude.
    ranks = np.argsort(np.argsort(small, axis=1, kind="stable"), axis=1)
    fair = (share > 0) & (share < 1)
    first_takes = np.where(fair[:, None], first_takes, ranks % 2 == 0)
    share = _share(main, small, first_takes)[:, None]
    missing = scales * flat.shape[1] - magnitudes.sum(axis=1)
    shift = (missing / np.maximum(2 * (~kept).sum(axis=1), 1))[:, None] * np.where(flat > 0, 1.0, -1.0)
    first = np.where(kept, share * flat, np.where(first_takes, flat + shift, -shift))
    second = np.where(kept, (1 - share) * flat, np.where(first_takes, -shift, flat + shift))
    return first.reshape(w.shape), second.reshape(w.shape)


def _share(main: F64, small: F64, first_takes: NDArray[np.bool_]) -> F64:
    """Of the kept weights, what the first of two gets, so that both have the same mean magnitude."""
    skew = np.where(first_takes, small, -small).sum(axis=1)
    return np.asarray((main - skew) / np.where(main > 0, 2 * main, 1))


def _ternary(magnitudes: F64) -> tuple[NDArray[np.bool_], F64]:
    """Which magnitudes [R, n] are kept, and the scales [R] of their rows."""
    kept = magnitudes > _THRESHOLD * magnitudes.mean(axis=1, keepdims=True)
    counts = kept.sum(axis=1)
    return kept, np.where(kept, magnitudes, 0.0).sum(axis=1) / np.maximum(counts, 1)

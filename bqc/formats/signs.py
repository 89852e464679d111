"""``Binary`` and ``Ternary``: weights that are signs times a scale, and the exact split of one into two of the other.

``value = sum over planes of scale * sign``. Sources: binary weight networks (Rastegari et al., arXiv 1603.05279);
ternary weight networks (Li et al., arXiv 1605.04711); ternary weight splitting (Bai et al., BinaryBERT, arXiv
2012.15701).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import sanitize
from bqc.formats.half import to_half
from bqc.formats.layouts import padded_inputs
from bqc.formats.sign_layouts import pack_sign_rows, pack_sign_tiles, unpack_sign_rows, unpack_sign_tiles
from bqc.formats.stored import Parts, relative_error
from bqc.ops.constants import HALF_MAX

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TERNARY_THRESHOLD", "Binary", "Ternary", "split_ternary"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
Scales = NDArray[np.floating[Any]]
"""float32 or float16."""

TERNARY_THRESHOLD = 0.7
"""Of the mean magnitude: what is smaller is 0 in a ternary weight."""
_SPANS = ("tensor", "row")
_SCALES = {"fp32": 4, "fp16": 2}
"""Bytes of a scale."""
_HALF_NORMAL = 2.0**-14
"""Below this an fp16 number has fewer than 11 bits."""


@dataclass(frozen=True)
class _Signs:
    """Planes of signs.

    Args:
        span: what shares a scale, ``"tensor"`` or ``"row"`` (an output neuron, or a token of a lookup table).
        group: inputs are packed in groups of so many (attention heads); 0 for none.
        scales: ``"fp32"``, or ``"fp16"``: rounded to that, so that all who read them see the same number.

    Raises ValueError for any other span or scales.
    """

    span: str = "tensor"
    group: int = 0
    scales: str = "fp32"
    family: ClassVar[str] = "Sign"

    def __post_init__(self) -> None:
        if self.span not in _SPANS:
            raise ValueError(f"{type(self).__name__} has no scale a {self.span!r}; it is one of tensor, row")
        if self.scales not in _SCALES:
            raise ValueError(
                f"{type(self).__name__} has no scales in {self.scales!r}; they are in one of {', '.join(_SCALES)}"
            )

    def __str__(self) -> str:
        names = [f.name for f in fields(self)[1:]]
        more = "".join(
            f",{n}={getattr(self, n)}" for n in names if getattr(self, n) != getattr(type(self), n)
        )
        return f"{type(self).__name__}({self.span}{more})"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `str`. Raises ValueError for anything else."""
        match = re.fullmatch(rf"{cls.__name__}\((\w+)((?:,\w+=\w+)*)\)", text.replace(" ", ""))
        known: dict[str, Any] = {f.name: type(f.default) for f in fields(cls)[1:]}
        more = dict(item.split("=") for item in match[2].split(",")[1:]) if match else {}
        wrong = [n for n, v in more.items() if n not in known or (known[n] is int and not v.isdecimal())]
        if not match or wrong:
            raise ValueError(f"{text!r} is not a format; write it like {cls.__name__}(tensor)")
        return cls(match[1], **{name: known[name](value) for name, value in more.items()})

    @property
    def planes(self) -> int:
        """Signs an element."""
        raise NotImplementedError

    @property
    def bits(self) -> int:
        """Stored bits an element, scales aside."""
        return self.planes

    def bits_per_element(self, rows: int, columns: int) -> float:
        """Stored bits an element of a matrix ``[rows, columns]``, scales included."""
        scales = rows if self.span == "row" else 1
        return self.planes * (1 + 8.0 * _SCALES[self.scales] * scales / (rows * columns))

    def quantize(self, w: NDArray[Any]) -> tuple[I8, Scales]:
        """Signs int8 [planes, N, K] and scales [planes, N or 1] of any matrix [N, K] (see `sanitize`).

        Scales beyond fp16 are cut off there (see `to_half`).
        """
        raise NotImplementedError

    def dequantize(self, signs: I8, scales: Scales) -> F32:
        """float32 [N, K] from signs int8 [planes, N, K] and scales [planes, N or 1], added plane by plane."""
        wide = scales.astype(np.float32)
        result: F32 = signs[0] * wide[0][:, None]
        for plane, scale in zip(signs[1:], wide[1:], strict=True):
            result = result + plane * scale[:, None]
        return result.astype(np.float32)

    def quantized(self, w: NDArray[Any]) -> Parts:
        """`quantize` as inputs of ``SignDequantize``.

        Raises ValueError where a scale is beyond fp16, or where all are so small that fp16 is coarse there; a few small
        ones among others are off by less than 2**-25.
        """
        signs, scales = self.quantize(w)
        largest = float(scales.max(initial=0))
        if self.scales == "fp16" and not _HALF_NORMAL <= largest < HALF_MAX and sanitize(w).any():
            raise ValueError(
                f"has scales up to {largest:.3g}, where fp16 is coarse or ends: it is for {_HALF_NORMAL:.1g} to "
                f"{HALF_MAX:g}; use scales in fp32"
            )
        return {"signs": signs, "scales": scales}

    def geometry(self, columns: int) -> dict[str, int]:
        """``SignDequantize`` has no attributes."""
        return {}

    def tiles(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``SignDequantizeTiles``."""
        _, rows, columns = parts["signs"].shape
        scales = parts["scales"]
        if scales.shape[1] > 1:
            scales = np.pad(scales, ((0, 0), (0, -rows % 16)))
        attributes = {"group": self.group, "rows": rows, "columns": columns, "layout": "n16k16"}
        return {"planes": pack_sign_tiles(parts["signs"], self.group), "scales": scales}, attributes

    def table(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``SignGather``."""
        attributes = {"columns": parts["signs"].shape[2], "layout": "row"}
        return {"rows": pack_sign_rows(parts["signs"]), "scales": parts["scales"]}, attributes

    def weight_error(self, w: NDArray[Any]) -> float:
        """Relative squared error of `quantized`: sum((w - Q(w))^2) / sum(w^2)."""
        return relative_error(w, self.dequantize(*self.quantize(w)))

    def stored_bytes(self, rows: int, columns: int, *, table: bool) -> int:
        """Bytes of what `table`, or else `tiles`, gives for a matrix [rows, columns]."""
        padded = rows if table else -(-rows // 16) * 16
        row = -(-columns // 8) if table else padded_inputs(columns, self.group) // 8
        return self.planes * (padded * row + _SCALES[self.scales] * (padded if self.span == "row" else 1))

    @property
    def words(self) -> str:
        """The format for people."""
        planes = "one plane" if self.planes == 1 else f"{self.planes} planes"
        scale = "an fp16 scale" if self.scales == "fp16" else "a scale"
        return f"{type(self).__name__.lower()} ({planes} of signs, {scale} a {self.span})"

    def rows(self, parts: Mapping[str, NDArray[Any]], start: int, stop: int) -> Parts:
        """The parts of rows ``start`` (a multiple of 16) to ``stop`` of a stored weight."""
        scales = parts["scales"][:, start:stop] if parts["scales"].shape[1] > 1 else parts["scales"]
        if "planes" in parts:
            return {"planes": parts["planes"][:, start // 16 : -(-stop // 16)], "scales": scales}
        return {**{name: part[:, start:stop] for name, part in parts.items()}, "scales": scales}

    def restore(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> F32:
        """float32 [N, K] = ``shape`` from the stored parts of a weight, by name (``bqc.part``)."""
        return self.dequantize(self._signs(parts, shape), parts["scales"][:, : shape[0]])

    def agrees(self, parts: Mapping[str, NDArray[Any]], w: NDArray[Any]) -> NDArray[np.bool_]:
        """Which elements of a float weight [N, K] the stored ones can stand for: those of the same sign, and for a 0
        those that are smaller than the scale."""
        shape = (w.shape[0], w.shape[1])
        stored, clean = self.restore(parts, shape), sanitize(w)
        largest = parts["scales"][:, : shape[0]].astype(np.float32).sum(axis=0)[:, None]
        same: NDArray[np.bool_] = np.where(
            stored == 0, np.abs(clean) <= largest, np.signbit(clean) == (stored < 0)
        )
        return same

    def _signs(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> I8:
        if "planes" in parts:
            return unpack_sign_tiles(parts["planes"], *shape, self.group)
        if "rows" in parts:
            return unpack_sign_rows(parts["rows"], shape[1])
        return parts["signs"]

    def _stored(self, scale: F64) -> Scales:
        """Scales as they are stored."""
        return to_half(scale) if self.scales == "fp16" else scale.astype(np.float32)

    def _rows(self, magnitudes: F64) -> F64:
        """Magnitudes [N, K] as one row for each scale."""
        return magnitudes if self.span == "row" else magnitudes.reshape(1, -1)


@dataclass(frozen=True)
class Binary(_Signs):
    """The mean magnitude times the sign, 0 counting as positive; of a second plane, that of what the first leaves.

    Args:
        span, group, scales: as of all formats of signs.
        planes: 1 or 2.
    """

    planes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.planes not in (1, 2):
            raise ValueError(f"Binary has no {self.planes} planes; it has 1 or 2")

    def quantize(self, w: NDArray[Any]) -> tuple[I8, Scales]:
        """Signs int8 [planes, N, K] and scales [planes, N or 1] of any matrix [N, K] (see `sanitize`)."""
        left = sanitize(w).astype(np.float64)
        signs, scales = [], []
        for _ in range(self.planes):
            scale = self._stored(self._rows(np.abs(left)).mean(axis=1))
            sign = np.where(left >= 0, 1, -1)
            left = left - sign * scale.astype(np.float64)[:, None]
            signs.append(sign.astype(np.int8))
            scales.append(scale)
        return np.stack(signs), np.stack(scales)

    def quantized_planes(self, *latent: NDArray[Any]) -> Parts:
        """As `quantized`, of weights [N, K] that are each one plane: the two that `split_ternary` makes, trained on."""
        one = replace(self, planes=1)
        found = [one.quantized(w) for w in latent]
        return {name: np.concatenate([parts[name] for parts in found]) for name in ("signs", "scales")}


@dataclass(frozen=True)
class Ternary(_Signs):
    """Two planes of one scale, which add up or cancel: -1, 0 or 1 times the mean of the magnitudes that are not 0.

    Magnitudes up to 0.7 times their mean are 0. A row of zeros has scale 0.
    """

    @property
    def planes(self) -> int:
        """Two."""
        return 2

    def quantize(self, w: NDArray[Any]) -> tuple[I8, Scales]:
        """Signs int8 [2, N, K] and scales [2, N or 1] of a matrix [N, K] of any values (see `sanitize`)."""
        clean = sanitize(w).astype(np.float64)
        kept, scales = _ternary(self._rows(np.abs(clean)))
        positive = clean > 0
        first = np.where(kept.reshape(clean.shape), positive, True)
        second = np.where(kept.reshape(clean.shape), positive, False)
        half = self._stored(scales / 2)
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
    kept = magnitudes > TERNARY_THRESHOLD * magnitudes.mean(axis=1, keepdims=True)
    counts = kept.sum(axis=1)
    return kept, np.where(kept, magnitudes, 0.0).sum(axis=1) / np.maximum(counts, 1)

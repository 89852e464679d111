"""``Half()``: weights in fp16, and what all formats share whose numbers are fp16.

Every fp16 number is a float32, and so is the product of any two: 11 bits times 11 bits, from 2**-48 to below 2**32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bqc.formats.stored import Parts, relative_error
from bqc.formats.strips import pack_strips, unpack_strips
from bqc.ops.constants import HALF_MAX

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["HALF_FAMILIES", "Half", "HalfWeight", "to_half"]

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]

HALF_FAMILIES = ("Half", "Index")
"""Families of operators whose linears round their input to fp16 (`HalfRound`) and have weights of fp16 numbers."""


def to_half(x: NDArray[Any]) -> F16:
    """x rounded to fp16, to nearest, ties to even; NaN -> 0, beyond +-65504 -> +-65504."""
    x32 = np.asarray(x, np.float32)
    clean = np.where(np.isnan(x32), np.float32(0), x32)
    return np.clip(clean, np.float32(-HALF_MAX), np.float32(HALF_MAX)).astype(np.float16)


class HalfWeight:
    """What formats of fp16 numbers share: one number or index an element, in strips or rows, and no groups.

    Subclasses are dataclasses that name the operators' ``family`` and the ``bits`` of an element. Of the parts of a
    weight the elements [N, K] come first; what follows is the same in every layout.
    """

    family: ClassVar[str]
    bits: ClassVar[int]
    group: ClassVar[int] = 0
    extra_bytes: ClassVar[int] = 0
    """Of the other parts."""
    example: ClassVar[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `str`, which may leave out what is the default. Raises ValueError for anything else."""
        match = re.fullmatch(rf"{cls.__name__}\((\w*)\)", text.replace(" ", ""))
        if not match:
            raise ValueError(f"{text!r} is not a format; write it like {cls.example}")
        try:
            return cls(*filter(None, match.groups()))
        except TypeError:
            raise ValueError(f"{text!r} is not a format; write it like {cls.example}") from None

    def parts(self, w: NDArray[Any]) -> Parts:
        """Any matrix [N, K] as the inputs of ``<family>Dequantize``; see `to_half` for what fp16 does not have."""
        raise NotImplementedError

    def values(self, elements: NDArray[Any], parts: Mapping[str, NDArray[Any]]) -> F32:
        """float32 of elements of a weight with these parts, in the elements' shape."""
        raise NotImplementedError

    def quantized(self, w: NDArray[Any]) -> Parts:
        """`parts` of a matrix [N, K]. Raises ValueError where a number is beyond fp16: a weight is not cut off."""
        largest = float(np.abs(w).max(initial=0))
        if not largest <= HALF_MAX:
            raise ValueError(f"holds numbers up to {largest:g}, and fp16 ends at {HALF_MAX:g}")
        return self.parts(w)

    def geometry(self, columns: int) -> dict[str, int]:
        """``<family>Dequantize`` has no attributes."""
        return {}

    def tiles(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``<family>DequantizeTiles``."""
        first, elements = self._elements(parts)
        rows, columns = elements.shape
        others = {name: part for name, part in parts.items() if name != first}
        attributes = {"rows": rows, "columns": columns, "layout": "n16"}
        return {"tiles": pack_strips(elements), **others}, attributes

    def table(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``<family>Gather``: the parts as they are."""
        return dict(parts), {"columns": self._elements(parts)[1].shape[1], "layout": "row"}

    def weight_error(self, w: NDArray[Any]) -> float:
        """Relative squared error of the format: sum((w - Q(w))^2) / sum(w^2)."""
        return relative_error(w, self.restore(self.parts(w), (w.shape[0], w.shape[1])))

    def stored_bytes(self, rows: int, columns: int, *, table: bool) -> int:
        """Bytes of what `table`, or else `tiles`, gives for a matrix [rows, columns]."""
        padded = rows if table else -(-rows // 16) * 16
        return padded * columns * self.bits // 8 + self.extra_bytes

    def bits_per_element(self, rows: int, columns: int) -> float:
        """Stored bits an element of a matrix ``[rows, columns]``, all parts included."""
        return self.bits + 8.0 * self.extra_bytes / (rows * columns)

    def rows(self, parts: Mapping[str, NDArray[Any]], start: int, stop: int) -> Parts:
        """The parts of rows ``start`` (a multiple of 16) to ``stop`` of a stored weight."""
        first, elements = self._elements(parts)
        kept = elements[start // 16 : -(-stop // 16)] if first == "tiles" else elements[start:stop]
        return {**parts, first: kept}

    def restore(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> F32:
        """float32 [N, K] = ``shape`` from the stored parts of a weight, by name (``bqc.part``)."""
        first, elements = self._elements(parts)
        matrix = unpack_strips(elements, shape[0]) if first == "tiles" else elements
        return self.values(matrix, parts)

    def agrees(self, parts: Mapping[str, NDArray[Any]], w: NDArray[Any]) -> NDArray[np.bool_]:
        """Which elements of a float weight [N, K] are stored as the very numbers that the format gives them."""
        same: NDArray[np.bool_] = self.restore(parts, (w.shape[0], w.shape[1])) == self._nearest(w, parts)
        return same

    def _nearest(self, w: NDArray[Any], parts: Mapping[str, NDArray[Any]]) -> F32:
        """float32 [N, K]: w rounded to the numbers that a weight with these parts can hold."""
        raise NotImplementedError

    @staticmethod
    def _elements(parts: Mapping[str, NDArray[Any]]) -> tuple[str, NDArray[Any]]:
        name = next(known for known in ("tiles", "rows", "codes") if known in parts)
        return name, parts[name]


@dataclass(frozen=True)
class Half(HalfWeight):
    """fp16 numbers, rounded to nearest, ties to even."""

    family: ClassVar[str] = "Half"
    bits: ClassVar[int] = 16
    example: ClassVar[str] = "Half()"

    def __str__(self) -> str:
        return "Half()"

    @property
    def words(self) -> str:
        """The format for people."""
        return "fp16"

    def quantize(self, w: NDArray[Any]) -> F16:
        """`to_half`, of any shape."""
        return to_half(w)

    def parts(self, w: NDArray[Any]) -> Parts:
        """Any matrix [N, K] as the input of ``HalfDequantize``."""
        return {"rows": self.quantize(w)}

    def values(self, elements: NDArray[Any], parts: Mapping[str, NDArray[Any]]) -> F32:
        """The elements as float32."""
        return elements.astype(np.float32)

    def _nearest(self, w: NDArray[Any], parts: Mapping[str, NDArray[Any]]) -> F32:
        return to_half(w).astype(np.float32)

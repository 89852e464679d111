"""``Xnor``: weights of one sign each, of linears whose inputs are signs too, so that XNOR and a count of bits multiply.

``value = scale * sign``, 0 counting as negative, in weights as in inputs. Source: SensiMix (PLoS ONE 10.1371/
journal.pone.0265621), 1-bit value quantisation, which has no scale; the scales are those of XNOR-Net (Rastegari et al.,
arXiv 1603.05279).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bqc.errors import BqcError
from bqc.formats.bit_layouts import pack_bit_tiles, padded_bits, unpack_bit_tiles
from bqc.formats.block_shift import sanitize
from bqc.formats.stored import Parts, relative_error

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Xnor"]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]

_SCALES = ("one", "tensor", "row")


@dataclass(frozen=True)
class Xnor:
    """One bit a weight: 1 where it is above 0, else -1, times a scale; the linear's input becomes signs as well.

    For linears only: a lookup table has no product that could count bits.

    Args:
        scale: ``"one"``, or the mean magnitude of the whole matrix (``"tensor"``) or of each output's weights
            (``"row"``).

    Raises ValueError for any other scale.
    """

    scale: str = "one"
    family: ClassVar[str] = "Xnor"
    bits: ClassVar[int] = 1
    """Stored bits an element, scales aside."""
    group: ClassVar[int] = 0
    """Signs have no blocks, so that groups of inputs need not be packed apart."""

    def __post_init__(self) -> None:
        if self.scale not in _SCALES:
            raise ValueError(f"Xnor has no scale {self.scale!r}; it is one of one, tensor, row")

    def __str__(self) -> str:
        return f"Xnor({self.scale})"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `str`. Raises ValueError for anything else."""
        match = re.fullmatch(r"Xnor\((\w+)\)", text.replace(" ", ""))
        if not match:
            raise ValueError(f"{text!r} is not a format; write it like Xnor(row)")
        return cls(match[1])

    def bits_per_element(self, rows: int, columns: int) -> float:
        """Stored bits an element of a matrix ``[rows, columns]``, float32 scales included."""
        return 1 + 32.0 * (rows if self.scale == "row" else 1) / (rows * columns)

    def quantize(self, w: NDArray[Any]) -> tuple[I8, F32]:
        """Signs int8 [N, K] and scales float32 [N or 1] of any matrix [N, K]; NaN has sign -1 and counts as 0."""
        signs = np.where(w > 0, 1, -1).astype(np.int8)
        if self.scale == "one":
            return signs, np.ones(1, np.float32)
        magnitudes = np.abs(sanitize(w).astype(np.float64))
        rows = magnitudes if self.scale == "row" else magnitudes.reshape(1, -1)
        return signs, rows.mean(axis=1).astype(np.float32)

    def dequantize(self, signs: I8, scales: F32) -> F32:
        """float32 [N, K] from signs int8 [N, K] and scales float32 [N or 1]."""
        w: F32 = signs.astype(np.float32) * scales[:, None]
        return w

    def quantized(self, w: NDArray[Any]) -> Parts:
        """`quantize` as inputs of ``XnorDequantize``."""
        signs, scales = self.quantize(w)
        return {"signs": signs, "scales": scales}

    def geometry(self, columns: int) -> dict[str, int]:
        """``XnorDequantize`` has no attributes."""
        return {}

    def tiles(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``XnorDequantizeTiles``."""
        rows, columns = parts["signs"].shape
        scales = parts["scales"]
        if len(scales) > 1:
            scales = np.pad(scales, (0, -rows % 16))
        attributes = {"rows": rows, "columns": columns, "layout": "n16k64"}
        return {"tiles": pack_bit_tiles(parts["signs"]), "scales": scales}, attributes

    def table(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Raises BqcError: lookup tables have no such form."""
        raise BqcError(f"{self} is a format of linears; give lookup tables another one, like Binary(row)")

    def weight_error(self, w: NDArray[Any]) -> float:
        """Relative squared error of `quantized`: sum((w - Q(w))^2) / sum(w^2)."""
        return relative_error(w, self.dequantize(*self.quantize(w)))

    def stored_bytes(self, rows: int, columns: int, *, table: bool) -> int:
        """Bytes of what `tiles` gives for a matrix [rows, columns]. Raises BqcError for a table."""
        if table:
            self.table({})
        padded = -(-rows // 16) * 16
        return padded * padded_bits(columns) // 8 + 4 * (padded if self.scale == "row" and rows > 1 else 1)

    @property
    def words(self) -> str:
        """The format for people."""
        scale = "no scale" if self.scale == "one" else f"a scale a {self.scale}"
        return f"xnor (signs by signs, {scale})"

    def rows(self, parts: Mapping[str, NDArray[Any]], start: int, stop: int) -> Parts:
        """The parts of rows ``start`` (a multiple of 16) to ``stop`` of a stored weight."""
        scales = parts["scales"][start:stop] if len(parts["scales"]) > 1 else parts["scales"]
        if "tiles" in parts:
            return {"tiles": parts["tiles"][start // 16 : -(-stop // 16)], "scales": scales}
        return {"signs": parts["signs"][start:stop], "scales": scales}

    def restore(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> F32:
        """float32 [N, K] = ``shape`` from the stored parts of a weight, by name (``bqc.part``)."""
        signs = unpack_bit_tiles(parts["tiles"], *shape) if "tiles" in parts else parts["signs"]
        return self.dequantize(signs, parts["scales"][: shape[0]])

    def agrees(self, parts: Mapping[str, NDArray[Any]], w: NDArray[Any]) -> NDArray[np.bool_]:
        """Which elements of a float weight [N, K] the stored ones can stand for: those of the same sign."""
        shape = (w.shape[0], w.shape[1])
        signs = unpack_bit_tiles(parts["tiles"], *shape) if "tiles" in parts else parts["signs"]
        same: NDArray[np.bool_] = (signs > 0) == (w > 0)
        return same

"""``Index8(tensor)``: a byte an element that is an index into a table of 256 fp16 numbers, evenly spaced.

Source: the 8-bit index quantisation of SensiMix (Piao et al., PLoS ONE 17(4) e0265621, 2022). Its code multiplies out
``(q + 128) * (max - min) / 255 + min`` in fp16 when a model is loaded; here that table is stored, so that its numbers
are the same wherever it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bqc.formats.half import HalfWeight, to_half
from bqc.formats.stored import Parts

__all__ = ["LEVELS", "Index8", "index_table", "midpoints"]

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

LEVELS = 256


def index_table(low: float | np.floating[Any], high: float | np.floating[Any]) -> F16:
    """The table of a matrix whose least and largest number these are, fp16 [256], ascending; its ends are exact.

    ``step = (high - low) / 255`` and ``table[i] = fp16(i * step + low)``, each step in float32, from ``low`` and
    ``high`` rounded to fp16 (`to_half`). There is no -0.
    """
    ends = to_half(np.array([low, high], np.float32)).astype(np.float32)
    step = (ends[1] - ends[0]) / np.float32(LEVELS - 1)
    values = np.arange(LEVELS, dtype=np.float32) * step + ends[0]
    values[-1] = ends[1]
    return to_half(values) + np.float16(0)


def midpoints(table: F16) -> F64:
    """float64 [255]: up to and including the i-th, number i of the table is the nearest, or nearer ones equal it."""
    wide = table.astype(np.float64)
    middle: F64 = (wide[:-1] + wide[1:]) / 2
    return middle


@dataclass(frozen=True)
class Index8(HalfWeight):
    """Per tensor: the table from its least number to its largest, and for each element the nearest number's index.

    Of two that are equally near, the lower index. Quantising what was quantised changes nothing.

    Args:
        span: what shares a table, always ``"tensor"``.

    Raises ValueError for any other span.
    """

    span: str = "tensor"
    family: ClassVar[str] = "Index"
    bits: ClassVar[int] = 8
    extra_bytes: ClassVar[int] = 2 * LEVELS
    example: ClassVar[str] = "Index8(tensor)"

    def __post_init__(self) -> None:
        if self.span != "tensor":
            raise ValueError(
                f"Index8 has one table for the whole tensor, none for {self.span!r}; it is written Index8(tensor)"
            )

    def __str__(self) -> str:
        return f"Index8({self.span})"

    @property
    def words(self) -> str:
        """The format for people."""
        return "8-bit indices of fp16 numbers (a table a tensor)"

    def quantize(self, w: NDArray[Any]) -> tuple[U8, F16]:
        """Indices uint8 in the shape of w, and their table fp16 [256]. NaN counts as 0."""
        clean = np.nan_to_num(np.asarray(w, np.float32), nan=0.0)
        table = index_table(clean.min(initial=np.inf), clean.max(initial=-np.inf))
        return self.encode(clean, table), table

    @staticmethod
    def encode(w: NDArray[Any], table: F16) -> U8:
        """Indices uint8 of the numbers of a table that are nearest to w, in the shape of w."""
        return np.searchsorted(midpoints(table), w.astype(np.float64), side="left").astype(np.uint8)

    def parts(self, w: NDArray[Any]) -> Parts:
        """Any matrix [N, K] as the inputs of ``IndexDequantize``."""
        codes, table = self.quantize(w)
        return {"codes": codes, "table": table}

    def values(self, elements: NDArray[Any], parts: Mapping[str, NDArray[Any]]) -> F32:
        """The table's numbers as float32."""
        result: F32 = parts["table"].astype(np.float32)[elements]
        return result

    def _nearest(self, w: NDArray[Any], parts: Mapping[str, NDArray[Any]]) -> F32:
        return self.values(self.encode(np.nan_to_num(w, nan=0.0), parts["table"]), parts)

"""What the compiler and `bqc diff` ask of a weight format."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ROW_STEP",
    "Parts",
    "StoredFormat",
    "WeightFormat",
    "relative_error",
    "stored_format",
    "weight_format",
]

ROW_STEP = 16
"""Rows of a stored weight are read in multiples of this many."""

Parts = dict[str, NDArray[Any]]
"""What a weight is stored in, by the names that initializers carry as ``bqc.part``; the elements come first."""


class StoredFormat(Protocol):
    """A number format that can read a weight back from the parts it is stored in.

    A weight's initializers carry ``bqc.format`` (the format's text) and ``bqc.part`` (the names used here).
    """

    @property
    def words(self) -> str:
        """The format for people: ``8-bit shift blocks (block 64)``."""

    def rows(self, parts: Mapping[str, NDArray[Any]], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The parts of rows ``start`` (a multiple of `ROW_STEP`) to ``stop``."""

    def restore(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> NDArray[np.float32]:
        """The weight as float32 [N, K] = ``shape``."""

    def agrees(self, parts: Mapping[str, NDArray[Any]], w: NDArray[Any]) -> NDArray[np.bool_]:
        """Which elements of a float weight [N, K] are stored as these very codes, given the stored scales."""


class WeightFormat(StoredFormat, Protocol):
    """A format that weights can be compiled to. Its operators begin with ``family``: ``<family>Linear``."""

    @property
    def family(self) -> str:
        """``Block``, ``Sign``, ``Sparse``, ``Xnor``, ``Half`` or ``Index``."""

    @property
    def bits(self) -> int:
        """Bits of a stored code; of all planes together."""

    @property
    def group(self) -> int:
        """Inputs come in groups of so many (attention heads), which are packed apart; 0 for none."""

    def quantized(self, w: NDArray[Any]) -> Parts:
        """A matrix [N, K] as the inputs of ``<family>Dequantize``, in their order."""

    def geometry(self, columns: int) -> dict[str, int]:
        """Attributes of ``<family>Dequantize`` for rows of ``columns`` elements."""

    def tiles(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """What `quantized` gave as the inputs and attributes of ``<family>DequantizeTiles``."""

    def table(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """What `quantized` gave as the inputs and attributes of ``<family>Gather``, after the ids; ValueError
        of a family without lookups."""

    def weight_error(self, w: NDArray[Any]) -> float:
        """Relative squared error of `quantized`: sum((w - Q(w))^2) / sum(w^2)."""

    def stored_bytes(self, rows: int, columns: int, *, table: bool) -> int:
        """Bytes of what `table`, or else `tiles`, gives for a matrix [rows, columns]."""


def relative_error(w: NDArray[Any], stored: NDArray[Any]) -> float:
    """``sum((w - stored)^2) / sum(w^2)`` in float64 of matrices of equal shape; of zeros, the sum of squares alone."""
    wide = w.astype(np.float64)
    return float(np.square(wide - stored).sum()) / (float(np.square(wide).sum()) or 1.0)


def weight_format(text: str) -> WeightFormat:
    """The format that a text names. Raises ValueError for anything else."""
    from bqc import formats

    name = text.partition("(")[0].strip()
    known = [one for one in formats.__all__ if hasattr(getattr(formats, one), "stored_bytes")]
    if name not in known:
        spelled = {one.lower(): one for one in known}
        near = difflib.get_close_matches(name.lower(), spelled, n=1)
        hint = f"did you mean {spelled[near[0]]}? " if near else ""
        if name in formats.__all__ and hasattr(getattr(formats, name), "parse"):
            raise ValueError(
                f"{text!r} is a format of activations; formats of weights are {', '.join(known)}"
            )
        raise ValueError(
            f"{text!r} is not a format; {hint}formats are {', '.join(known)}, written like BlockShift(8,64); leave it "
            "out to keep it float"
        )
    kind = getattr(formats, name)
    found: WeightFormat = kind.parse(text)
    return found


def stored_format(text: str) -> WeightFormat | None:
    """The format that a ``bqc.format`` names; None if this version of bqc does not know it."""
    try:
        return weight_format(text)
    except ValueError:
        return None

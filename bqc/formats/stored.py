"""Stored weights of any format, read back: what `bqc diff` asks of a format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROW_STEP", "StoredFormat", "stored_format"]

ROW_STEP = 16
"""Rows of a stored weight are read in multiples of this many."""


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


def stored_format(text: str) -> StoredFormat | None:
    """The format that a ``bqc.format`` names; None if this version of bqc does not know it."""
    from bqc import formats

    kind = getattr(formats, text.partition("(")[0], None)
    try:
        return None if kind is None else kind.parse(text)
    except (AttributeError, ValueError):
        return None

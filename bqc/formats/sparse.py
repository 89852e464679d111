"""``Sparse(kept, of, bits)``: of every ``of`` consecutive inputs of an output, the ``kept`` largest; the rest is 0.

``value = code * scale``, one scale for each output. Source: N:M fine-grained structured sparsity (Zhou et al., arXiv
2102.04010), which NxMiFormer (arXiv 2206.15014) joins with integer weights; the exact rules are ours, see docs/formats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import CHUNK, sanitize
from bqc.formats.sparse_layouts import (
    keep_largest,
    pack_sparse_tiles,
    strip_bytes,
    unpack_sparse_tiles,
)
from bqc.formats.stored import Parts, relative_error
from bqc.ops.constants import FLT_MAX, FLT_MIN

__all__ = ["ERROR_UNITS", "PATTERNS", "Sparse"]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]

PATTERNS = ((2, 4), (1, 4), (2, 8), (4, 8))
"""Kept, of how many."""
ERROR_UNITS = 2**16
"""Squared errors of codes are counted in integers, in units of one over this: their sum has no order."""
_SHARES = {8: (1.0,), 4: (1.0, 0.9, 0.8, 0.7, 0.6)}
_TEXT = re.compile(r"Sparse\((\d+),(\d+)(?:,(\d+))?(?:,group=(\d+))?\)")


@dataclass(frozen=True)
class Sparse:
    """N:M-sparse weights of integer codes, symmetric about 0.

    Args:
        kept, of: of ``of`` consecutive inputs ``kept`` are stored: 2 of 4, 1 of 4, 2 of 8 or 4 of 8.
        bits: of a kept code, 8 (-127 to 127) or 4 (-7 to 7).
        group: inputs come in groups of so many (attention heads), in each of which the counting starts anew; 0 for
            none. The end of a group counts as ``of`` inputs, however many it has.

    Raises ValueError for any other pattern or bits.
    """

    kept: int = 2
    of: int = 4
    bits: int = 8
    group: int = 0
    family: ClassVar[str] = "Sparse"

    def __post_init__(self) -> None:
        if (self.kept, self.of) not in PATTERNS:
            raise ValueError(
                f"Sparse keeps 2 of 4, 1 of 4, 2 of 8 or 4 of 8 weights, not {self.kept} of {self.of}"
            )
        if self.bits not in _SHARES:
            raise ValueError(f"Sparse has no {self.bits}-bit codes; bits is 8 or 4")

    def __str__(self) -> str:
        group = f",group={self.group}" if self.group else ""
        return f"Sparse({self.kept},{self.of},{self.bits}{group})"

    @classmethod
    def parse(cls, text: str) -> Sparse:
        """Inverse of `str`. Raises ValueError for anything else."""
        match = _TEXT.fullmatch(text.replace(" ", ""))
        if not match:
            raise ValueError(f"{text!r} is not a format; write it like Sparse(2,4,8)")
        kept, of, bits, group = match.groups()
        return cls(int(kept), int(of), int(bits or 8), int(group or 0))

    @property
    def high(self) -> int:
        """Largest code; the smallest is its negative."""
        return 2 ** (self.bits - 1) - 1

    @property
    def shares(self) -> tuple[float, ...]:
        """What scales are tried: those that map so much of a row's largest magnitude to the largest code.

        Clipping pays where codes are few.
        """
        return _SHARES[self.bits]

    def bits_per_element(self, rows: int, columns: int) -> float:
        """Stored bits an element of a matrix ``[rows, columns]``, indices and float32 scales included."""
        return 8 * self.stored_bytes(rows, columns, table=False) / (rows * columns)

    def mask(self, w: NDArray[Any]) -> NDArray[np.bool_]:
        """Which elements of a matrix [N, K] are kept: the largest magnitudes, of equal ones the first.

        A matrix of which no more are nonzero keeps all that are.
        """
        rows, columns = w.shape
        span = self.group or columns
        extra = -span % self.of
        grouped = np.pad(np.abs(w).reshape(rows, -1, span), ((0, 0), (0, 0), (0, extra)))
        kept = keep_largest(grouped.reshape(rows, -1, self.of), self.kept)
        return kept.reshape(*grouped.shape)[:, :, :span].reshape(rows, columns)

    def quantize(self, w: NDArray[Any]) -> tuple[I8, F32]:
        """Codes int8 [N, K], 0 where nothing is kept, and scales float32 [N] of any matrix [N, K] (see `sanitize`).

        The scale is that of `shares` with the least squared error; 1 where a row is all 0.
        """
        step = max(1, CHUNK // w.shape[1])
        # Rows do not depend on each other: small parts stay in cache, and numpy lets other threads run meanwhile.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(lambda start: self._rows(w[start : start + step]), range(0, len(w), step)))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def dequantize(self, codes: I8, scales: F32) -> F32:
        """float32 [N, K] from codes int8 [N, K] and scales float32 [N]."""
        result: F32 = codes.astype(np.float32) * scales[:, None]
        return result

    def quantized(self, w: NDArray[Any]) -> Parts:
        """`quantize` as inputs of ``SparseDequantize``."""
        codes, scales = self.quantize(w)
        return {"codes": codes, "scales": scales}

    def geometry(self, columns: int) -> dict[str, int]:
        """``SparseDequantize`` has no attributes."""
        return {}

    def tiles(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``SparseDequantizeTiles``."""
        rows, columns = parts["codes"].shape
        pattern = {"kept": self.kept, "of": self.of, "bits": self.bits, "group": self.group}
        packed = pack_sparse_tiles(parts["codes"], **pattern)
        scales = np.pad(parts["scales"], (0, -rows % 16))
        return {"tiles": packed, "scales": scales}, {
            **pattern,
            "rows": rows,
            "columns": columns,
            "layout": "n16s4",
        }

    def table(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Raises ValueError: there are no lookups in N:M-sparse tables."""
        raise ValueError(f"{self} is no format of a lookup table")

    def weight_error(self, w: NDArray[Any]) -> float:
        """Relative squared error of `quantized`: sum((w - Q(w))^2) / sum(w^2)."""
        return relative_error(w, self.dequantize(*self.quantize(w)))

    def stored_bytes(self, rows: int, columns: int, *, table: bool) -> int:
        """Bytes of what `tiles` gives for a matrix [rows, columns]; ValueError for a `table`."""
        if table:
            raise ValueError(f"{self} is no format of a lookup table")
        strips = -(-rows // 16)
        return strips * (strip_bytes(columns, self.kept, self.of, self.bits, self.group) + 64)

    @property
    def words(self) -> str:
        """The format for people."""
        return f"{self.kept}:{self.of} sparse {self.bits}-bit codes (a scale a row)"

    def rows(self, parts: Mapping[str, NDArray[Any]], start: int, stop: int) -> Parts:
        """The parts of rows ``start`` (a multiple of 16) to ``stop`` of a stored weight."""
        scales = parts["scales"][start:stop]
        if "tiles" in parts:
            return {"tiles": parts["tiles"][start // 16 : -(-stop // 16)], "scales": scales}
        return {"codes": parts["codes"][start:stop], "scales": scales}

    def restore(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> F32:
        """float32 [N, K] = ``shape`` from the stored parts of a weight, by name (``bqc.part``)."""
        return self.dequantize(self._codes(parts, shape), parts["scales"][: shape[0]])

    def agrees(self, parts: Mapping[str, NDArray[Any]], w: NDArray[Any]) -> NDArray[np.bool_]:
        """Which elements of a float weight [N, K] have exactly the stored codes, at the stored scales and its own
        mask."""
        rows, columns = w.shape
        stored = self._codes(parts, (rows, columns))
        clean = self._pruned(w)
        # What is compared may have come from anywhere: no scale of 0 is divided by.
        scales = np.where(parts["scales"][:rows] == 0, np.float32(1), parts["scales"][:rows])
        same: NDArray[np.bool_] = self._encode(clean, scales) == stored
        return same

    def _codes(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> I8:
        if "tiles" in parts:
            return unpack_sparse_tiles(parts["tiles"], *shape, self.kept, self.of, self.bits, self.group)
        return parts["codes"]

    def _pruned(self, w: NDArray[Any]) -> F32:
        clean = sanitize(w)
        return np.where(self.mask(clean), clean, np.float32(0))

    def _rows(self, w: NDArray[Any]) -> tuple[I8, F32]:
        """`quantize` of some rows."""
        pruned = self._pruned(w)
        largest = np.abs(pruned).max(axis=1, initial=0)
        best = self._scale(largest, self.shares[0])
        codes, error = self._trial(pruned, best)
        for share in self.shares[1:]:
            scales = self._scale(largest, share)
            trial, trial_error = self._trial(pruned, scales)
            better = trial_error < error
            best, error = np.where(better, scales, best), np.where(better, trial_error, error)
            codes = np.where(better[:, None], trial, codes)
        return codes, best

    def _scale(self, largest: F32, share: float) -> F32:
        """Scales that are normal numbers, whose largest value is finite, and 1 for rows of 0."""
        scale = largest * np.float32(share) / np.float32(self.high)
        limited = np.clip(scale, np.float32(FLT_MIN), np.float32(FLT_MAX / (self.high + 1)))
        result: F32 = np.where(largest == 0, np.float32(1), limited)
        return result

    def _trial(self, pruned: F32, scales: F32) -> tuple[I8, NDArray[np.float64]]:
        codes = self._encode(pruned, scales)
        if len(self.shares) == 1:
            return codes, np.zeros(len(codes))
        off = pruned / scales[:, None] - codes
        units = np.rint(off * off * np.float32(ERROR_UNITS)).astype(np.int64).sum(axis=1)
        wide = scales.astype(np.float64)
        return codes, units * (wide * wide)

    def _encode(self, pruned: F32, scales: F32) -> I8:
        scaled = np.rint(pruned / scales[:, None])
        codes: I8 = np.clip(scaled, -self.high, self.high).astype(np.int8)
        return codes

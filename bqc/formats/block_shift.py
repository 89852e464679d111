"""``BlockShift(bits, block)``: integers that share one power-of-two scale a block.

``value = code * 2**exponent``. Source: BBCT (arXiv 2303.09184), abstract; the exact rules are ours, see
docs/formats.
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

from bqc.formats import layouts
from bqc.formats.geometry import Blocks
from bqc.formats.stored import Parts
from bqc.ops.constants import FLT_MAX, FLT_MIN, MIN_EXPONENT, POWERS

__all__ = [
    "ACTIVATION_BITS",
    "BlockShift",
    "ceil_log2",
    "encode",
    "power_of_two",
    "range_exponents",
    "sanitize",
]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]

BITS = (8, 6, 4, 3, 2)
ACTIVATION_BITS = (8, 6, 4)
_TEXT = re.compile(r"BlockShift\((\d+),(\d+|row|tensor)(?:,group=(\d+))?\)")
CHUNK = 1 << 16
"""Weights that are quantised at a time."""
BLOCKS = (16, 32, 64, 128, 256, "row", "tensor")


@dataclass(frozen=True)
class BlockShift:
    """Block-wise power-of-two quantisation.

    Args:
        bits: 8, 6, 4 or, for weights, 3 and 2. Codes are clamped to +-127, +-31, [-8, 7], +-3 and +-1.
        block: elements that share an exponent along the last axis: 16 to 256, ``"row"`` or ``"tensor"``.
        group: blocks never cross a multiple of this many elements (attention heads); 0 for none.

    Raises ValueError for any other bits or block.
    """

    bits: int = 8
    block: int | str = 64
    group: int = 0
    family: ClassVar[str] = "Block"

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"BlockShift has no {self.bits}-bit codes; bits is one of 8, 6, 4, 3, 2")
        if self.block not in BLOCKS:
            raise ValueError(
                f"BlockShift has no block {self.block!r}; block is one of 16, 32, 64, 128, 256, row, tensor"
            )

    def __str__(self) -> str:
        group = f",group={self.group}" if self.group else ""
        return f"BlockShift({self.bits},{self.block}{group})"

    @classmethod
    def parse(cls, text: str) -> BlockShift:
        """Inverse of `str`. Raises ValueError for anything else."""
        match = _TEXT.fullmatch(text.replace(" ", ""))
        if not match:
            raise ValueError(f"{text!r} is not a format; write it like BlockShift(8,64) or BlockShift(4,row)")
        bits, block, group = match.groups()
        return cls(int(bits), int(block) if block.isdigit() else block, int(group or 0))

    def block_size(self, length: int) -> int:
        """Elements of a full block in a row of ``length``."""
        return self.block if isinstance(self.block, int) else length

    @property
    def low(self) -> int:
        """Smallest code."""
        return -8 if self.bits == 4 else -self.high

    @property
    def high(self) -> int:
        """Largest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def offset(self) -> int:
        """What is added to a code to store it unsigned."""
        return 2 ** (self.bits - 1)

    @property
    def exponents_tried(self) -> int:
        """Exponents that `quantize_weights` tries: the one that the range asks for and those below it."""
        return 4 if self.bits <= 4 else 3

    def blocks(self, length: int) -> Blocks:
        """The blocks of a row of ``length`` elements."""
        return Blocks(length, self.block_size(length), self.group)

    def bits_per_element(self, length: int) -> float:
        """Stored bits an element of a row of ``length``, exponents included."""
        return self.bits + (0.0 if self.block == "tensor" else 8.0 * self.blocks(length).count / length)

    def quantize(self, x: NDArray[Any]) -> tuple[I8, I8]:
        """Quantise with the exponent that the block's largest magnitude asks for.

        Args:
            x: float [..., K], any values (see `sanitize`).

        Returns:
            codes int8 [..., K] and exponents int8 [..., blocks]; the exponent is ``ceil(log2(max)) - (bits -
            1)``, the smallest with ``max <= 2**(bits - 1) * 2**exponent``, at least -126.
        """
        clean = sanitize(x)
        exponents = range_exponents(self._largest(clean), self.bits)
        return encode(clean, exponents, self.blocks(clean.shape[-1]).owner, self.bits), exponents

    def quantize_weights(self, w: NDArray[Any]) -> tuple[I8, I8]:
        """Quantise a matrix [N, K] with the exponents of least squared error, clipping allowed.

        For every block `exponents_tried` exponents are tried: the one that its range asks for, and those below.
        """
        parts = self._search_rows(w)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def weight_error(self, w: NDArray[Any]) -> float:
        """Relative squared error of `quantize_weights`: sum((w - Q(w))^2) / sum(w^2)."""
        total = float(np.einsum("nk,nk->", w, w, dtype=np.float64))
        return sum(float(p[2].sum()) for p in self._search_rows(w)) / (total or 1.0)

    def dequantize(self, codes: I8, exponents: I8) -> F32:
        """float32 [..., K] from codes int8 [..., K] and exponents int8 [..., blocks]."""
        owner = self.blocks(codes.shape[-1]).owner
        result: F32 = codes.astype(np.float32) * power_of_two(exponents[..., owner])
        return result

    def pack_rows(self, codes: I8) -> NDArray[np.uint8]:
        """Codes int8 [V, H] of a lookup table to bytes uint8 [V, row bytes]."""
        return layouts.pack_rows(codes, self.bits)

    def unpack_rows(self, packed: NDArray[np.uint8], columns: int) -> I8:
        """Inverse of `pack_rows`."""
        return layouts.unpack_rows(packed, self.bits, columns)

    def pack_matrix(self, codes: I8) -> NDArray[np.uint8]:
        """Codes int8 [N, K] of a weight to the tiles uint8 [ceil16(N)/16, ceil(K' * bits/32), 16, 4] of kernels."""
        return layouts.pack_tiles(codes, self.bits, self.group)

    def unpack_matrix(self, packed: NDArray[np.uint8], rows: int, columns: int) -> I8:
        """Inverse of `pack_matrix`."""
        return layouts.unpack_tiles(packed, self.bits, rows, columns, self.group)

    def quantized(self, w: NDArray[Any]) -> Parts:
        """`quantize_weights` as inputs of ``BlockDequantize``."""
        codes, exponents = self.quantize_weights(w)
        return {"codes": codes, "exponents": exponents}

    def geometry(self, columns: int) -> dict[str, int]:
        """Attributes of ``BlockDequantize``."""
        return {"block": self.block_size(columns), "group": self.group}

    def tiles(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``BlockDequantizeTiles``."""
        rows, columns = parts["codes"].shape
        scales = np.ascontiguousarray(np.pad(parts["exponents"].T, ((0, 0), (0, -rows % 16))))
        attributes = {"bits": self.bits, "rows": rows, "columns": columns, "layout": "n16k4"}
        packed = self.pack_matrix(parts["codes"])
        return {"tiles": packed, "scales": scales}, {**self.geometry(columns), **attributes}

    def table(self, parts: Parts) -> tuple[Parts, dict[str, Any]]:
        """Inputs and attributes of ``BlockGather``."""
        columns = parts["codes"].shape[1]
        # No block of a table is cut at groups: its rows are no heads.
        attributes = {
            "columns": columns,
            "bits": self.bits,
            "block": self.block_size(columns),
            "layout": "row",
        }
        return {"rows": self.pack_rows(parts["codes"]), "exponents": parts["exponents"]}, attributes

    def stored_bytes(self, rows: int, columns: int, *, table: bool) -> int:
        """Bytes of what `table`, or else `tiles`, gives for a matrix [rows, columns]."""
        count = self.blocks(columns).count
        if table:
            return rows * (count + layouts.row_bytes(columns, self.bits))
        return -(-rows // 16) * (16 * count + 64 * layouts.tile_count(columns, self.bits, self.group))

    @property
    def words(self) -> str:
        """The format for people."""
        group = f" inside groups of {self.group}" if self.group else ""
        return f"{self.bits}-bit shift blocks (block {self.block}{group})"

    def rows(self, parts: Mapping[str, NDArray[Any]], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The parts of rows ``start`` (a multiple of 16) to ``stop`` of a stored weight."""
        if "tiles" in parts:
            return {
                "tiles": parts["tiles"][start // 16 : -(-stop // 16)],
                "scales": parts["scales"][:, start:stop],
            }
        return {name: part[start:stop] for name, part in parts.items()}

    def restore(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> F32:
        """float32 [N, K] = ``shape`` from the stored parts of a weight, by name (``bqc.part``)."""
        return self.dequantize(*self._stored(parts, shape))

    def agrees(self, parts: Mapping[str, NDArray[Any]], w: NDArray[Any]) -> NDArray[np.bool_]:
        """Which elements of a float weight [N, K] have exactly the stored codes, at the stored exponents."""
        codes, exponents = self._stored(parts, (w.shape[0], w.shape[1]))
        same: NDArray[np.bool_] = (
            encode(sanitize(w), exponents, self.blocks(w.shape[1]).owner, self.bits) == codes
        )
        return same

    def _stored(self, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> tuple[I8, I8]:
        rows, columns = shape
        if "tiles" in parts:
            return self.unpack_matrix(parts["tiles"], rows, columns), parts["scales"].T[:rows]
        if "rows" in parts:
            return self.unpack_rows(parts["rows"], columns), parts["exponents"]
        return parts["codes"], parts["exponents"]

    def _largest(self, clean: F32) -> F32:
        """Largest magnitude of each block, [..., blocks]."""
        largest: F32 = np.maximum.reduceat(np.abs(clean), self.blocks(clean.shape[-1]).starts, axis=-1)
        if self.block == "tensor":
            largest = np.broadcast_to(largest.max(initial=0), largest.shape)
        return largest

    def _search_rows(self, w: NDArray[Any]) -> list[tuple[I8, I8, NDArray[np.float64]]]:
        """`_search` over a matrix [N, K], a few rows at a time."""
        # Rows do not depend on each other: small parts stay in cache, and numpy lets other threads run
        # meanwhile.
        step = len(w) if self.block == "tensor" else max(1, CHUNK // w.shape[1])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda start: self._search(w[start : start + step]), range(0, len(w), step)))

    def _search(self, w: NDArray[Any]) -> tuple[I8, I8, NDArray[np.float64]]:
        """Codes, exponents and squared errors [N, blocks] of the best exponents."""
        clean = sanitize(w)
        blocks = self.blocks(clean.shape[-1])
        top = best = range_exponents(self._largest(clean), self.bits)
        codes, error = self._trial(clean, top, blocks)
        for step in range(1, self.exponents_tried):
            exponents = np.maximum(top.astype(np.int32) - step, MIN_EXPONENT).astype(np.int8)
            trial, trial_error = self._trial(clean, exponents, blocks)
            better = trial_error < error
            best, error = np.where(better, exponents, best), np.where(better, trial_error, error)
            codes = np.where(better[..., blocks.owner], trial, codes)
        return codes, best, error

    def _trial(self, clean: F32, exponents: I8, blocks: Blocks) -> tuple[I8, NDArray[np.float64]]:
        codes = encode(clean, exponents, blocks.owner, self.bits)
        scale = power_of_two(exponents)[..., blocks.owner]
        # In float64, or the squares of small weights underflow to zero before they are summed.
        difference = (codes * scale - clean).astype(np.float64)
        error: NDArray[np.float64] = np.add.reduceat(difference * difference, blocks.starts, axis=-1)
        if self.block == "tensor":
            error = np.broadcast_to(error.mean(), error.shape)
        return codes, error


def sanitize(x: NDArray[Any]) -> F32:
    """float32 copy of x with NaN -> 0, infinities -> +-FLT_MAX and subnormal magnitudes -> 0."""
    x32 = np.asarray(x, np.float32)
    x32 = np.where(np.isnan(x32), np.float32(0), x32)
    x32 = np.clip(x32, np.float32(-FLT_MAX), np.float32(FLT_MAX))
    return np.where(np.abs(x32) < np.float32(FLT_MIN), np.float32(0), x32).astype(np.float32)


def ceil_log2(x: F32) -> NDArray[np.int32]:
    """Smallest c in [-126, 128] with ``x <= 2**c``, for finite x >= 0."""
    return (np.searchsorted(POWERS, x, side="left") + MIN_EXPONENT).astype(np.int32)


def power_of_two(exponent: NDArray[Any]) -> F32:
    """2**exponent as float32, for exponents in [-126, 127]; -127 and -128 count as 127 and 126, as in bodies."""
    result: F32 = POWERS[exponent.astype(np.int32) - MIN_EXPONENT]
    return result


def range_exponents(largest: F32, bits: int) -> I8:
    """Exponent int8 of blocks whose largest magnitude is given; its inverse is a normal number too."""
    return np.clip(ceil_log2(largest) - (bits - 1), MIN_EXPONENT, -MIN_EXPONENT).astype(np.int8)


@np.errstate(over="ignore")
def encode(clean: F32, exponents: I8, owner: NDArray[np.int64], bits: int) -> I8:
    """Codes of sanitised x [..., K]: ``x * 2**-exponent`` rounded half to even and clamped."""
    high = 2 ** (bits - 1) - 1
    low = -8 if bits == 4 else -high
    scaled = clean * power_of_two(-exponents.astype(np.int32))[..., owner]
    codes: I8 = np.clip(np.rint(scaled), low, high).astype(np.int8)
    return codes

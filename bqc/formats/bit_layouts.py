"""How single signs lie in memory where both sides of a product are signs: a set bit is 1, a clear one -1.

- bits, uint8 [..., ceil8(K)/8]: bit b of byte j is element ``8j + b``.
- tiles ``n16k64``, uint8 [ceil16(N)/16, ceil64(K)/64, 8, 16]: a tile holds 64 inputs of 16 outputs; bit b of byte
  [j][n] is input ``8j + b`` of output n. Lookups and byte-wise counts of bits take bytes of 16 outputs side by side.

Bits beyond K are clear where they are written here; where they are read they may be anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_bit_tiles", "pack_bits", "padded_bits", "unpack_bit_tiles", "unpack_bits"]

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]


def padded_bits(columns: int) -> int:
    """Inputs of a row of ``columns`` in tiles."""
    return -(-columns // 64) * 64


def pack_bits(positive: NDArray[np.bool_]) -> U8:
    """bool [..., K] -> uint8 [..., ceil8(K)/8]."""
    return np.packbits(positive, axis=-1, bitorder="little")


def unpack_bits(bits: U8, columns: int) -> I8:
    """uint8 [..., ceil8(K)/8] -> int8 [..., K] of -1 and 1; ``columns`` is K."""
    return _signs(np.unpackbits(bits, axis=-1, count=columns, bitorder="little"))


def pack_bit_tiles(signs: I8) -> U8:
    """int8 [N, K] of -1 and 1 -> uint8 [ceil16(N)/16, ceil64(K)/64, 8, 16]."""
    rows, columns = signs.shape
    positive = np.zeros((-(-rows // 16) * 16, padded_bits(columns)), np.bool_)
    positive[:rows, :columns] = signs > 0
    return np.ascontiguousarray(pack_bits(positive).reshape(-(-rows // 16), 16, -1, 8).transpose(0, 2, 3, 1))


def unpack_bit_tiles(tiles: U8, rows: int, columns: int) -> I8:
    """Inverse of `pack_bit_tiles`; ``rows`` is N, ``columns`` is K."""
    matrix = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)).reshape(tiles.shape[0] * 16, -1)
    return unpack_bits(matrix[:rows], columns)


def _signs(bits: NDArray[Any]) -> I8:
    return np.ascontiguousarray(bits.astype(np.int8) * 2 - 1)

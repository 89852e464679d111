"""How signs lie in the file, a bit each: set for 1, clear for -1.

Planes follow each other, so that weights of one and of two planes are read alike.

- rows ``row``, uint8 [P, V, ceil8(H)/8]: bit b of byte j is column ``j + b * ceil8(H)/8``.
- tiles ``n16k16``, uint8 [P, ceil16(N)/16, K'/16, 2, 16], where K' is K with every group of inputs padded to a multiple
  of 16: a 32-byte tile holds 16 inputs of 16 outputs, byte [h][j] the inputs ``4h ... 4h + 3`` of output j in its low
  nibble and ``8 + 4h ... 8 + 4h + 3`` in its high one. A nibble is what a lookup among the 16 signed sums of four
  inputs takes. Bits of inputs that are padding may be anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.formats.layouts import group_pad, padded_inputs

__all__ = ["pack_sign_rows", "pack_sign_tiles", "unpack_sign_rows", "unpack_sign_tiles"]

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]

_BITS = np.arange(8, dtype=np.uint8)


def pack_sign_rows(signs: I8) -> U8:
    """int8 [P, V, H] of -1 and 1 -> uint8 [P, V, ceil8(H)/8]."""
    planes, rows, columns = signs.shape
    width = -(-columns // 8)
    bits = np.zeros((planes, rows, 8 * width), np.uint8)
    bits[..., :columns] = signs > 0
    return np.asarray((bits.reshape(planes, rows, 8, width) << _BITS[:, None]).sum(axis=2), np.uint8)


def unpack_sign_rows(packed: U8, columns: int) -> I8:
    """Inverse of `pack_sign_rows`; ``columns`` is H."""
    bits = packed[..., None, :] >> _BITS[:, None] & 1
    return _signs(bits.reshape(*packed.shape[:-1], 8 * packed.shape[-1])[..., :columns])


def pack_sign_tiles(signs: I8, group: int = 0) -> U8:
    """int8 [P, N, K] of -1 and 1 -> uint8 [P, ceil16(N)/16, K'/16, 2, 16]."""
    planes, rows, columns = signs.shape
    span = group or columns
    bits = np.zeros((planes, -(-rows // 16) * 16, columns // span, group_pad(span)), np.uint8)
    bits[:, :rows, :, :span] = signs.reshape(planes, rows, -1, span) > 0
    # plane, strip, output, tile, half, h, input -> plane, strip, tile, h, output, half, input
    tiles = bits.reshape(planes, bits.shape[1] // 16, 16, -1, 2, 2, 4).transpose(0, 1, 3, 5, 2, 4, 6)
    return np.asarray((tiles.reshape(*tiles.shape[:5], 8) << _BITS).sum(axis=-1), np.uint8)


def unpack_sign_tiles(packed: U8, rows: int, columns: int, group: int = 0) -> I8:
    """Inverse of `pack_sign_tiles`; ``rows`` is N, ``columns`` is K."""
    planes, strips = packed.shape[:2]
    bits = (packed[..., None] >> _BITS & 1).reshape(planes, strips, -1, 2, 16, 2, 4)
    matrix = bits.transpose(0, 1, 4, 2, 5, 3, 6).reshape(planes, strips * 16, padded_inputs(columns, group))
    span = group or columns
    grouped = matrix[:, :rows].reshape(planes, rows, -1, group_pad(span))[..., :span]
    return _signs(grouped.reshape(planes, rows, columns))


def _signs(bits: NDArray[Any]) -> I8:
    return np.ascontiguousarray(bits.astype(np.int8) * 2 - 1)

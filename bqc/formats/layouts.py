"""How codes lie in the file: one portable layout for weights of MatMul, one for lookup tables.

Codes are stored unsigned (``code + 2**(bits - 1)``). Both layouts are made of planes so that they can be
taken apart with shifts and reshapes alone, by the function bodies as well as by a vector unit.

Planes of 4- and 6-bit codes: the low nibbles, two codes a byte; then for 6 bits the two high bits, four
codes a byte.

- rows ``row_u8 | row_u4 | row_u6``, uint8 [V, ceil4(H) * bits/8] (8 bits: [V, H]): byte j of the nibble
  plane holds columns j and j + ceil4(H)/2; byte j of the high plane columns j + s * ceil4(H)/4.
- tiles ``n16k4_u8 | n16k4_u4 | n16k4_u6``, uint8 [ceil16(N)/16, K' * bits/32, 16, 4], where K' is K with
  every group of inputs padded to a multiple of 16: a 64-byte tile holds 4 inputs of 16 outputs; in the
  nibble plane 2 x 4 inputs (low nibbles first), in the high plane 4 x 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["group_pad", "pack_rows", "pack_tiles", "padded_inputs", "unpack_rows", "unpack_tiles"]

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]


def pack_rows(codes: I8, bits: int) -> U8:
    """int8 [V, H] -> uint8 [V, ceil4(H) * bits / 8]."""
    if bits == 8:
        return _unsigned(codes, bits)
    unsigned = _unsigned(_pad(codes, 1, 4), bits)
    half, quarter = unsigned.shape[1] // 2, unsigned.shape[1] // 4
    low = np.asarray((unsigned[:, :half] & 15) | (unsigned[:, half:] & 15) << 4, np.uint8)
    if bits == 4:
        return low
    high = sum((unsigned[:, s * quarter : (s + 1) * quarter] >> 4) << 2 * s for s in range(4))
    return np.concatenate([low, np.asarray(high, np.uint8)], axis=1)


def unpack_rows(packed: U8, bits: int, columns: int) -> I8:
    """Inverse of `pack_rows`; ``columns`` is H."""
    if bits == 8:
        return _signed(packed, bits)[:, :columns]
    width = packed.shape[1] * 8 // bits
    low = packed[:, : width // 2]
    codes = np.concatenate([low & 15, low >> 4], axis=1)
    if bits == 6:
        high = packed[:, width // 2 :]
        codes = codes | np.concatenate([(high >> 2 * s & 3) << 4 for s in range(4)], axis=1)
    return _signed(codes, bits)[:, :columns]


def pack_tiles(codes: I8, bits: int, group: int = 0) -> U8:
    """int8 [N, K] -> uint8 [ceil16(N)/16, K' * bits/32, 16, 4]."""
    rows, columns = codes.shape
    span = group or columns
    grouped = codes.reshape(rows, columns // span, span)
    padded = _pad(_pad(grouped, 2, 16).reshape(rows, -1), 0, 16)
    unsigned = _unsigned(padded, bits)
    tiles = unsigned.reshape(unsigned.shape[0] // 16, 16, -1, 4).transpose(0, 2, 1, 3)
    if bits == 8:
        return np.ascontiguousarray(tiles)
    low = (tiles[:, 0::2] & 15) | (tiles[:, 1::2] & 15) << 4
    if bits == 4:
        return low
    high = sum((tiles[:, s::4] >> 4) << 2 * s for s in range(4))
    return np.concatenate([low, np.asarray(high, np.uint8)], axis=1)


def unpack_tiles(packed: U8, bits: int, rows: int, columns: int, group: int = 0) -> I8:
    """Inverse of `pack_tiles`; ``rows`` is N, ``columns`` is K."""
    outer = packed.shape[0]
    steps = packed.shape[1] * 8 // bits
    if bits == 8:
        tiles = packed
    else:
        low = packed[:, : steps // 2]
        tiles = np.stack([low & 15, low >> 4], axis=2).reshape(outer, steps, 16, 4)
        if bits == 6:
            high = packed[:, steps // 2 :]
            top = np.stack([(high >> 2 * s & 3) << 4 for s in range(4)], axis=2)
            tiles = tiles | top.reshape(outer, steps, 16, 4)
    matrix = _signed(tiles, bits).transpose(0, 2, 1, 3).reshape(outer * 16, steps * 4)
    span = group or columns
    grouped = matrix[:rows].reshape(rows, columns // span, group_pad(span))
    return np.ascontiguousarray(grouped[:, :, :span]).reshape(rows, columns)


def padded_inputs(columns: int, group: int = 0) -> int:
    """K' of the tile layout."""
    span = group or columns
    return columns // span * group_pad(span)


def group_pad(span: int) -> int:
    """Inputs that a group of ``span`` takes in the tile layout."""
    return -(-span // 16) * 16


def _unsigned(codes: NDArray[Any], bits: int) -> U8:
    return (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)


def _signed(codes: U8, bits: int) -> I8:
    return (codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)


def _pad(codes: NDArray[Any], axis: int, multiple: int) -> NDArray[Any]:
    extra = -codes.shape[axis] % multiple
    widths = [(0, extra if i == axis else 0) for i in range(codes.ndim)]
    return np.pad(codes, widths) if extra else codes

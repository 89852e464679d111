"""How codes lie in the file: one portable layout for weights of MatMul, one for lookup tables.

Codes are stored unsigned (``code + 2**(bits - 1)``). Both layouts are made of planes so that they can be
taken apart with shifts and reshapes alone, by the function bodies as well as by a vector unit.

Planes of 4- and 6-bit codes: the low nibbles, two codes a byte; then for 6 bits the two high bits, four
codes a byte. 2-bit codes are one such plane of pairs of bits.

- rows ``row_u8 | row_u4 | row_u6 | row_u2``, uint8 [V, ceil4(H) * bits/8] (8 bits: [V, H]): byte j of the nibble
  plane holds columns j and j + ceil4(H)/2; byte j of a plane of pairs columns j + s * ceil4(H)/4.
- tiles ``n16k4_u8 | n16k4_u4 | n16k4_u6 | n16k4_u2``, uint8 [ceil16(N)/16, K' * bits/32, 16, 4], where K' is K with
  every group of inputs padded to a multiple of 16: a 64-byte tile holds 4 inputs of 16 outputs; in the
  nibble plane 2 x 4 inputs (low nibbles first), in a plane of pairs 4 x 4.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    half = unsigned.shape[1] // 2
    quarters = np.split(unsigned, 4, axis=1)
    if bits == 2:
        return _pairs(quarters)
    low = np.asarray((unsigned[:, :half] & 15) | (unsigned[:, half:] & 15) << 4, np.uint8)
    if bits == 4:
        return low
    return np.concatenate([low, _pairs([quarter >> 4 for quarter in quarters])], axis=1)


def unpack_rows(packed: U8, bits: int, columns: int) -> I8:
    """Inverse of `pack_rows`; ``columns`` is H."""
    if bits == 8:
        return _signed(packed, bits)[:, :columns]
    if bits == 2:
        return _signed(np.concatenate(_unpaired(packed), axis=1), bits)[:, :columns]
    width = packed.shape[1] * 8 // bits
    low = packed[:, : width // 2]
    codes = np.concatenate([low & 15, low >> 4], axis=1)
    if bits == 6:
        codes = codes | np.concatenate(_unpaired(packed[:, width // 2 :]), axis=1) << 4
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
    if bits == 2:
        return _pairs([tiles[:, s::4] for s in range(4)])
    low = (tiles[:, 0::2] & 15) | (tiles[:, 1::2] & 15) << 4
    if bits == 4:
        return low
    return np.concatenate([low, _pairs([tiles[:, s::4] >> 4 for s in range(4)])], axis=1)


def unpack_tiles(packed: U8, bits: int, rows: int, columns: int, group: int = 0) -> I8:
    """Inverse of `pack_tiles`; ``rows`` is N, ``columns`` is K."""
    outer = packed.shape[0]
    steps = packed.shape[1] * 8 // bits
    tiles: NDArray[Any]
    if bits == 8:
        tiles = packed
    elif bits == 2:
        tiles = np.stack(_unpaired(packed), axis=2).reshape(outer, steps, 16, 4)
    else:
        low = packed[:, : steps // 2]
        tiles = np.stack([low & 15, low >> 4], axis=2).reshape(outer, steps, 16, 4)
        if bits == 6:
            top = np.stack(_unpaired(packed[:, steps // 2 :]), axis=2)
            tiles = tiles | top.reshape(outer, steps, 16, 4) << 4
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


def _pairs(parts: Sequence[NDArray[Any]]) -> U8:
    """Four arrays of two-bit numbers in one, the first in the lowest bits."""
    return np.asarray(sum(part << 2 * s for s, part in enumerate(parts)), np.uint8)


def _unpaired(packed: U8) -> list[NDArray[Any]]:
    """Inverse of `_pairs`."""
    return [packed >> 2 * s & 3 for s in range(4)]


def _unsigned(codes: NDArray[Any], bits: int) -> U8:
    return (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)


def _signed(codes: U8, bits: int) -> I8:
    return (codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)


def _pad(codes: NDArray[Any], axis: int, multiple: int) -> NDArray[Any]:
    extra = -codes.shape[axis] % multiple
    widths = [(0, extra if i == axis else 0) for i in range(codes.ndim)]
    return np.pad(codes, widths) if extra else codes

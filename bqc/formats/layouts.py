"""How codes lie in the file: one portable layout for weights of MatMul, one for lookup tables.

Codes are stored unsigned (``code + 2**(bits - 1)``). Both layouts are made of planes so that they can be
taken apart with shifts and reshapes alone, by the function bodies as well as by a vector unit.

A plane holds some bits of every code, the first plane the lowest: of 4- and 6-bit codes the low nibbles, two
codes a byte, of 2- and 3-bit codes pairs of bits, four codes a byte; then for 6 bits the two high bits as pairs
too, for 3 bits the high bit, eight codes a byte.

- rows ``row_u8 | row_u6 | row_u4 | row_u3 | row_u2``, uint8 [V, W * bits/8], where W is H padded to a multiple of 4 (8
  bits: H itself; 3 bits: of 8): byte j of the nibble plane holds columns j and j + W/2; byte j of a plane of
  pairs columns j + s * W/4; byte j of a plane of single bits columns j + s * W/8.
- tiles ``n16k4_u8 | n16k4_u6 | n16k4_u4 | n16k4_u3 | n16k4_u2``, uint8 [ceil16(N)/16, ceil(K' * bits/32), 16, 4], where
  K' is K with every group of inputs padded to a multiple of 16: a 64-byte tile holds 4 inputs of 16 outputs; in the
  nibble plane 2 x 4 inputs (low nibbles first), in a plane of pairs 4 x 4, in a plane of single bits 8 x 4. Of the last
  tile of single bits the upper half is unused, and 0, where K'/16 is odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "group_pad",
    "pack_rows",
    "pack_tiles",
    "padded_inputs",
    "row_bytes",
    "tile_count",
    "unpack_rows",
    "unpack_tiles",
]

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]

_PLANES = {8: (8,), 6: (4, 2), 4: (4,), 3: (2, 1), 2: (2,)}
"""Bits of a code that the planes hold, the lowest first."""


def pack_rows(codes: I8, bits: int) -> U8:
    """int8 [V, H] -> uint8 [V, `row_bytes`]."""
    rest: NDArray[Any] = _unsigned(_pad(codes, 1, _row_multiple(bits)), bits)
    planes = []
    for width in _PLANES[bits]:
        planes.append(_fields(np.split(rest, 8 // width, axis=1), width))
        rest = rest >> width
    return np.concatenate(planes, axis=1)


def unpack_rows(packed: U8, bits: int, columns: int) -> I8:
    """Inverse of `pack_rows`; ``columns`` is H."""
    length = packed.shape[1] * 8 // bits
    unsigned = np.zeros((len(packed), length), np.uint8)
    at = shift = 0
    for width in _PLANES[bits]:
        plane = packed[:, at : at + length * width // 8]
        unsigned |= np.concatenate(_parts(plane, width), axis=1) << shift
        at, shift = at + plane.shape[1], shift + width
    return _signed(unsigned, bits)[:, :columns]


def row_bytes(columns: int, bits: int) -> int:
    """Bytes of a row of ``columns`` codes of a lookup table."""
    multiple = _row_multiple(bits)
    return -(-columns // multiple) * multiple * bits // 8


def pack_tiles(codes: I8, bits: int, group: int = 0) -> U8:
    """int8 [N, K] -> uint8 [ceil16(N)/16, `tile_count`, 16, 4]."""
    rows, columns = codes.shape
    span = group or columns
    grouped = codes.reshape(rows, columns // span, span)
    padded = _pad(_pad(grouped, 2, 16).reshape(rows, -1), 0, 16)
    unsigned = _unsigned(padded, bits)
    rest: NDArray[Any] = unsigned.reshape(unsigned.shape[0] // 16, 16, -1, 4).transpose(0, 2, 1, 3)
    planes = []
    for width in _PLANES[bits]:
        count = 8 // width
        whole = _pad(rest, 1, count)
        planes.append(_fields([whole[:, s::count] for s in range(count)], width))
        rest = rest >> width
    return np.ascontiguousarray(np.concatenate(planes, axis=1))


def unpack_tiles(packed: U8, bits: int, rows: int, columns: int, group: int = 0) -> I8:
    """Inverse of `pack_tiles`; ``rows`` is N, ``columns`` is K."""
    outer, steps = packed.shape[0], padded_inputs(columns, group) // 4
    tiles = np.zeros((outer, steps, 16, 4), np.uint8)
    at = shift = 0
    for width in _PLANES[bits]:
        plane = packed[:, at : at - (-steps * width // 8)]
        parts = np.stack(_parts(plane, width), axis=2).reshape(outer, -1, 16, 4)
        tiles |= parts[:, :steps] << shift
        at, shift = at + plane.shape[1], shift + width
    matrix = _signed(tiles, bits).transpose(0, 2, 1, 3).reshape(outer * 16, steps * 4)
    span = group or columns
    grouped = matrix[:rows].reshape(rows, columns // span, group_pad(span))
    return np.ascontiguousarray(grouped[:, :, :span]).reshape(rows, columns)


def tile_count(columns: int, bits: int, group: int = 0) -> int:
    """Tiles of 16 outputs of ``columns`` inputs each."""
    return -(-padded_inputs(columns, group) * bits // 32)


def padded_inputs(columns: int, group: int = 0) -> int:
    """K' of the tile layout."""
    span = group or columns
    return columns // span * group_pad(span)


def group_pad(span: int) -> int:
    """Inputs that a group of ``span`` takes in the tile layout."""
    return -(-span // 16) * 16


def _row_multiple(bits: int) -> int:
    """What the length of a table's row is padded to a multiple of."""
    return {8: 1, 3: 8}.get(bits, 4)


def _fields(parts: Sequence[NDArray[Any]], width: int) -> U8:
    """The lowest ``width`` bits of 8 / width arrays in one, the first in the lowest bits."""
    mask = 2**width - 1
    return np.asarray(sum((part & mask) << width * s for s, part in enumerate(parts)), np.uint8)


def _parts(packed: U8, width: int) -> list[NDArray[Any]]:
    """Inverse of `_fields`."""
    return [packed >> width * s & 2**width - 1 for s in range(8 // width)]


def _unsigned(codes: NDArray[Any], bits: int) -> U8:
    return (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)


def _signed(codes: U8, bits: int) -> I8:
    return (codes.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)


def _pad(codes: NDArray[Any], axis: int, multiple: int) -> NDArray[Any]:
    extra = -codes.shape[axis] % multiple
    widths = [(0, extra if i == axis else 0) for i in range(codes.ndim)]
    return np.pad(codes, widths) if extra else codes

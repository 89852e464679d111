"""The operators over fp16 weights, in numpy; as `bqc.ops.reference`.

Products of two fp16 numbers are exact in float32 (`bqc.formats.half`), so that a fused multiply-add gives the bits of a
product and a sum; one sum an output, over the inputs in order, makes them the same everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bqc.formats.half import to_half
from bqc.formats.strips import unpack_strips
from bqc.ops.reference import finite, gelu, layer_norm

__all__ = [
    "half_dequantize",
    "half_dequantize_tiles",
    "half_gather",
    "half_gather_tiles",
    "half_linear",
    "half_linear_add_norm",
    "half_linear_gelu",
    "half_linear_relu",
    "half_round",
    "index_dequantize",
    "index_dequantize_tiles",
    "index_gather",
    "index_gather_tiles",
    "index_linear",
    "index_linear_add_norm",
    "index_linear_gelu",
    "index_linear_relu",
]

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


def half_round(x: F32) -> F32:
    """x rounded to fp16, to nearest, ties to even; NaN -> 0, beyond +-65504 -> +-65504."""
    return to_half(x).astype(np.float32)


def half_dequantize(rows: F16) -> F32:
    """fp16 [N, K] as float32."""
    return rows.astype(np.float32)


def half_dequantize_tiles(tiles: F16, *, rows: int, columns: int) -> F32:
    """The weight in tiles ``n16`` as a float matrix [K, N]."""
    return np.ascontiguousarray(half_dequantize(unpack_strips(tiles, rows)).T)


def half_linear(x: F32, tiles: F16, bias: F32) -> F32:
    """y [..., N] = x W^T + bias, x [..., K] rounded to fp16; the weight in tiles ``n16``.

    ``acc = acc + x[k] * w[k]`` in float32 for every k in ascending order, starting at +0; then ``finite(acc + bias)``.
    """
    rounded, w = half_round(x), unpack_strips(tiles, bias.shape[0]).astype(np.float32).T
    acc = np.zeros((*x.shape[:-1], bias.shape[0]), np.float32)
    for k in range(x.shape[-1]):
        acc = acc + rounded[..., k, None] * w[k]
    return finite(acc + bias)


def half_linear_gelu(x: F32, tiles: F16, bias: F32, *, approximate: int) -> F32:
    """`half_linear`, then `gelu`."""
    return gelu(half_linear(x, tiles, bias), approximate=approximate)


def half_linear_relu(x: F32, tiles: F16, bias: F32) -> F32:
    """`half_linear`, then what of it is above 0."""
    return np.asarray(np.maximum(half_linear(x, tiles, bias), np.float32(0)))


@np.errstate(over="ignore")
def half_linear_add_norm(
    x: F32, tiles: F16, bias: F32, residual: F32, gamma: F32, beta: F32, *, epsilon: float
) -> F32:
    """`layer_norm` of `half_linear` plus the residual [..., N]."""
    return layer_norm(half_linear(x, tiles, bias) + residual, gamma, beta, epsilon=epsilon)


def half_gather(ids: I64, rows: F16, *, columns: int) -> F32:
    """Rows [..., columns] of a table. Ids in [-V, V)."""
    return rows[ids].astype(np.float32)


def half_gather_tiles(ids: I64, tiles: F16, *, columns: int, rows: int) -> F32:
    """Rows [..., columns] of a table [rows, columns] in tiles ``n16``. Ids in [-rows, rows)."""
    return half_gather(ids, unpack_strips(tiles, rows), columns=columns)


def index_dequantize(codes: U8, table: F16) -> F32:
    """The numbers of a table [256] that indices [N, K] stand for."""
    return table.astype(np.float32)[codes]


def index_dequantize_tiles(tiles: U8, table: F16, *, rows: int, columns: int) -> F32:
    """The weight in tiles ``n16`` of indices as a float matrix [K, N]."""
    return half_dequantize_tiles(table[tiles], rows=rows, columns=columns)


def index_linear(x: F32, tiles: U8, table: F16, bias: F32) -> F32:
    """`half_linear`, the weight stored as indices of the numbers of a table [256]."""
    return half_linear(x, table[tiles], bias)


def index_linear_gelu(x: F32, tiles: U8, table: F16, bias: F32, *, approximate: int) -> F32:
    """`half_linear_gelu` of indices."""
    return half_linear_gelu(x, table[tiles], bias, approximate=approximate)


def index_linear_relu(x: F32, tiles: U8, table: F16, bias: F32) -> F32:
    """`half_linear_relu` of indices."""
    return half_linear_relu(x, table[tiles], bias)


def index_linear_add_norm(
    x: F32, tiles: U8, table: F16, bias: F32, residual: F32, gamma: F32, beta: F32, *, epsilon: float
) -> F32:
    """`half_linear_add_norm` of indices."""
    return half_linear_add_norm(x, table[tiles], bias, residual, gamma, beta, epsilon=epsilon)


def index_gather(ids: I64, codes: U8, table: F16, *, columns: int) -> F32:
    """Rows [..., columns] of a table stored as indices of the numbers of ``table``. Ids in [-V, V)."""
    return index_dequantize(codes[ids], table)


def index_gather_tiles(ids: I64, tiles: U8, table: F16, *, columns: int, rows: int) -> F32:
    """The same of a table [rows, columns] in tiles ``n16``. Ids in [-rows, rows)."""
    return index_gather(ids, unpack_strips(tiles, rows), table, columns=columns)

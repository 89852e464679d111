"""The operators on products of signs with signs, in numpy; as `bqc.ops.reference`.

A bit is set where a number is above 0: 0 and NaN are negative. Source: SensiMix (PLoS ONE
10.1371/journal.pone.0265621), 1-bit value quantisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.formats.bit_layouts import pack_bits, unpack_bit_tiles, unpack_bits
from bqc.ops.reference import Quantized, block_dequantize, finite, layer_norm, quantize_out

__all__ = [
    "binarize",
    "binarize_codes",
    "binary_dequantize",
    "xnor_dequantize",
    "xnor_dequantize_tiles",
    "xnor_linear",
    "xnor_linear_add_norm",
    "xnor_linear_binarize",
]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]


def binarize(x: F32) -> U8:
    """Bits uint8 [..., ceil8(K)/8] of x [..., K], those beyond K clear."""
    return pack_bits(x > 0)


def binarize_codes(codes: I8) -> U8:
    """`binarize` of any block-dequantised codes int8 [..., K]: powers of two change no sign."""
    return pack_bits(codes > 0)


def binary_dequantize(bits: U8, *, columns: int) -> F32:
    """x [..., columns] of -1 and 1."""
    return unpack_bits(bits, columns).astype(np.float32)


def xnor_dequantize(signs: I8, scales: F32) -> F32:
    """W [N, K] from signs int8 [N, K] and scales float32 [N or 1]."""
    w: F32 = signs.astype(np.float32) * scales[:, None]
    return w


def xnor_dequantize_tiles(tiles: U8, scales: F32, *, rows: int, columns: int) -> F32:
    """The weight in tiles ``n16k64`` as a float matrix [K, N]; scales are float32 [ceil16(N) or 1]."""
    return np.ascontiguousarray(xnor_dequantize(unpack_bit_tiles(tiles, rows, columns), scales[:rows]).T)


def xnor_linear(bits: U8, tiles: U8, scales: F32, bias: F32, *, columns: int) -> F32:
    """y [..., N] = float(dot) * scale + bias of signs [..., columns] and the weight in tiles ``n16k64``.

    The dot product is columns - 2 * popcount(bits xor weight), over the first ``columns`` bits; the product with the
    scale is +0 where it is a zero.
    """
    rows = bias.shape[0]
    x, w = unpack_bits(bits, columns), unpack_bit_tiles(tiles, rows, columns)
    # Integers below 2**24: exact in any order.
    dots = x.astype(np.float32) @ w.astype(np.float32).T
    scaled = dots * scales[:rows]
    return finite(np.where(scaled == 0, np.float32(0), scaled) + bias)


def xnor_linear_binarize(*inputs: Any, columns: int) -> U8:
    """`xnor_linear`, then `binarize`."""
    return binarize(xnor_linear(*inputs, columns=columns))


def xnor_linear_add_norm(
    bits: U8,
    tiles: U8,
    scales: F32,
    bias: F32,
    residual: I8,
    residual_exponents: I8,
    gamma: F32,
    beta: F32,
    *,
    columns: int,
    residual_block: int,
    residual_group: int,
    epsilon: float,
    **out: int,
) -> Quantized:
    """`layer_norm` of `xnor_linear` plus the dequantised residual [..., N], then `block_quantize`."""
    y = xnor_linear(bits, tiles, scales, bias, columns=columns)
    y = y + block_dequantize(residual, residual_exponents, block=residual_block, group=residual_group)
    return quantize_out(layer_norm(y, gamma, beta, epsilon=epsilon), **out)

"""The operators over N:M-sparse weights, in numpy; as `bqc.ops.reference`.

``W = code * scale``, a scale for each output. Weights are tiles ``n16s4`` (`bqc.formats.sparse_layouts`); attributes
``kept, of, bits`` say how they are packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import power_of_two
from bqc.formats.geometry import Blocks
from bqc.formats.sparse_layouts import unpack_sparse_tiles
from bqc.ops.reference import (
    Quantized,
    block_dequantize,
    block_quantize_values,
    finite,
    gelu,
    layer_norm,
    quantize_out,
)

__all__ = [
    "sparse_dequantize",
    "sparse_dequantize_tiles",
    "sparse_linear",
    "sparse_linear_add_norm",
    "sparse_linear_gelu",
    "sparse_linear_quantize",
    "sparse_linear_quantize_values",
    "sparse_linear_relu",
]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]


def sparse_dequantize(codes: I8, scales: F32) -> F32:
    """W [N, K] from codes int8 [N, K] and scales float32 [N]."""
    w: F32 = codes.astype(np.float32) * scales[:, None]
    return w


def sparse_dequantize_tiles(
    tiles: U8, scales: F32, *, kept: int, of: int, bits: int, group: int, rows: int, columns: int
) -> F32:
    """The weight in tiles ``n16s4`` as a float matrix [K, N]; scales are float32 [ceil16(N)]."""
    codes = unpack_sparse_tiles(tiles, rows, columns, kept, of, bits, group)
    return np.ascontiguousarray(sparse_dequantize(codes, scales[:rows]).T)


def sparse_linear(
    codes: I8,
    exponents: I8,
    tiles: U8,
    scales: F32,
    bias: F32,
    *,
    kept: int,
    of: int,
    bits: int,
    block: int,
    group: int,
) -> F32:
    """y [..., N] = x [..., K] W^T + bias; the weight in tiles ``n16s4``, scales float32 [ceil16(N)].

    Blocks in ascending order: ``acc += float(dot) * scale * 2**exponent``, starting at +0.
    """
    rows, columns = bias.shape[0], codes.shape[-1]
    blocks = Blocks(columns, block, group)
    w = unpack_sparse_tiles(tiles, rows, columns, kept, of, bits, group).astype(np.int32)
    x = codes.astype(np.int32)
    acc = np.zeros((*codes.shape[:-1], rows), np.float32)
    for i, (start, size) in enumerate(zip(blocks.starts, blocks.sizes, strict=True)):
        part = slice(start, start + size)
        dot = (x[..., part] @ w[:, part].T).astype(np.float32)
        acc = acc + dot * scales[:rows] * power_of_two(exponents[..., i : i + 1])
    return finite(acc + bias)


def sparse_linear_quantize(
    *inputs: Any, out_bits: int, out_block: int, out_group: int, **weight: Any
) -> Quantized:
    """`sparse_linear`, then `block_quantize` (attributes ``out_bits, out_block, out_group``)."""
    y = sparse_linear(*inputs, **weight)
    return quantize_out(y, out_bits=out_bits, out_block=out_block, out_group=out_group)


def sparse_linear_quantize_values(
    *inputs: Any, heads: int, out_bits: int, out_block: int, **weight: Any
) -> Quantized:
    """`sparse_linear`, then `block_quantize_values`; the last input is the mask int64 [B, S]."""
    *linear, mask = inputs
    y = sparse_linear(*linear, **weight)
    return block_quantize_values(y, mask, heads=heads, bits=out_bits, block=out_block)


def sparse_linear_gelu(
    *inputs: Any, approximate: int, out_bits: int, out_block: int, out_group: int, **weight: Any
) -> Quantized:
    """`sparse_linear`, then `gelu`, then `block_quantize`."""
    y = gelu(sparse_linear(*inputs, **weight), approximate=approximate)
    return quantize_out(y, out_bits=out_bits, out_block=out_block, out_group=out_group)


def sparse_linear_relu(
    *inputs: Any, out_bits: int, out_block: int, out_group: int, **weight: Any
) -> Quantized:
    """`sparse_linear`, then what of it is above 0, then `block_quantize`."""
    y = np.maximum(sparse_linear(*inputs, **weight), np.float32(0))
    return quantize_out(y, out_bits=out_bits, out_block=out_block, out_group=out_group)


def sparse_linear_add_norm(
    *inputs: Any,
    residual_block: int,
    residual_group: int,
    epsilon: float,
    out_bits: int,
    out_block: int,
    out_group: int,
    **weight: Any,
) -> Quantized:
    """`layer_norm` of `sparse_linear` plus the dequantised residual [..., N], then `block_quantize`.

    Inputs after those of `sparse_linear`: residual, its exponents, gamma, beta.
    """
    *linear, residual, residual_exponents, gamma, beta = inputs
    y = sparse_linear(*linear, **weight)
    y = y + block_dequantize(residual, residual_exponents, block=residual_block, group=residual_group)
    normed = layer_norm(y, gamma, beta, epsilon=epsilon)
    return quantize_out(normed, out_bits=out_bits, out_block=out_block, out_group=out_group)

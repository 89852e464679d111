"""The operators over weights made of signs, in numpy; as `bqc.ops.reference`.

``P`` planes of signs, each with a scale for all outputs or one for each: ``W = sum over planes of scale * sign``.
Scales are float32, or fp16 and widened before anything is multiplied. The arithmetic is ours; where such weights come
from, `bqc.formats.signs` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import power_of_two
from bqc.formats.geometry import Blocks
from bqc.formats.sign_layouts import unpack_sign_rows, unpack_sign_tiles
from bqc.ops.reference import (
    Quantized,
    block_dequantize,
    block_gather,
    block_quantize_values,
    finite,
    gelu,
    layer_norm,
    quantize_out,
)

__all__ = [
    "sign_dequantize",
    "sign_dequantize_tiles",
    "sign_embedding_layer_norm",
    "sign_gather",
    "sign_linear",
    "sign_linear_add_norm",
    "sign_linear_gelu",
    "sign_linear_quantize",
    "sign_linear_quantize_values",
    "sign_linear_relu",
]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
Scales = NDArray[np.floating[Any]]


def sign_dequantize(signs: I8, scales: Scales) -> F32:
    """W [N, K] from signs int8 [P, N, K] and scales [P, N or 1], plane by plane; a zero is +0."""
    w = _sum_planes(signs.astype(np.float32), scales.astype(np.float32)[:, :, None])
    return np.where(w == 0, np.float32(0), w)


def sign_dequantize_tiles(planes: U8, scales: Scales, *, group: int, rows: int, columns: int) -> F32:
    """The weight in tiles ``n16k16`` as a float matrix [K, N]; scales are [P, ceil16(N) or 1]."""
    return np.ascontiguousarray(
        sign_dequantize(unpack_sign_tiles(planes, rows, columns, group), scales[:, :rows]).T
    )


def sign_linear(
    codes: I8, exponents: I8, planes: U8, scales: Scales, bias: F32, *, block: int, group: int
) -> F32:
    """y [..., N] = x [..., K] W^T + bias; the weight in tiles ``n16k16``, scales [P, ceil16(N) or 1].

    Blocks in ascending order: ``acc += (float(dot of plane 0) * scale + float(dot of plane 1) * scale) * 2**ex``,
    starting at +0.
    """
    rows, columns = bias.shape[0], codes.shape[-1]
    blocks = Blocks(columns, block, group)
    signs = unpack_sign_tiles(planes, rows, columns, blocks.span).astype(np.int32)
    x = codes.astype(np.int32)
    acc, wide = np.zeros((*codes.shape[:-1], rows), np.float32), scales.astype(np.float32)
    for i, (start, size) in enumerate(zip(blocks.starts, blocks.sizes, strict=True)):
        part = slice(start, start + size)
        dots = np.stack([x[..., part] @ plane[:, part].T for plane in signs]).astype(np.float32)
        scale = wide[:, :rows].reshape(len(scales), *[1] * (codes.ndim - 1), -1)
        acc = acc + _sum_planes(dots, scale) * power_of_two(exponents[..., i : i + 1])
    return finite(acc + bias)


def sign_linear_quantize(*inputs: Any, block: int, group: int, **out: int) -> Quantized:
    """`sign_linear`, then `block_quantize` (attributes ``out_bits, out_block, out_group``)."""
    return quantize_out(sign_linear(*inputs, block=block, group=group), **out)


def sign_linear_quantize_values(
    *inputs: Any, block: int, group: int, heads: int, out_bits: int, out_block: int
) -> Quantized:
    """`sign_linear`, then `block_quantize_values`; the last input is the mask int64 [B, S]."""
    *linear, mask = inputs
    y = sign_linear(*linear, block=block, group=group)
    return block_quantize_values(y, mask, heads=heads, bits=out_bits, block=out_block)


def sign_linear_gelu(*inputs: Any, block: int, group: int, approximate: int, **out: int) -> Quantized:
    """`sign_linear`, then `gelu`, then `block_quantize`."""
    return quantize_out(gelu(sign_linear(*inputs, block=block, group=group), approximate=approximate), **out)


def sign_linear_relu(*inputs: Any, block: int, group: int, **out: int) -> Quantized:
    """`sign_linear`, then what of it is above 0, then `block_quantize`."""
    return quantize_out(np.maximum(sign_linear(*inputs, block=block, group=group), np.float32(0)), **out)


def sign_linear_add_norm(
    codes: I8,
    exponents: I8,
    planes: U8,
    scales: F32,
    bias: F32,
    residual: I8,
    residual_exponents: I8,
    gamma: F32,
    beta: F32,
    *,
    block: int,
    group: int,
    residual_block: int,
    residual_group: int,
    epsilon: float,
    **out: int,
) -> Quantized:
    """`layer_norm` of `sign_linear` plus the dequantised residual [..., N], then `block_quantize`."""
    y = sign_linear(codes, exponents, planes, scales, bias, block=block, group=group)
    y = y + block_dequantize(residual, residual_exponents, block=residual_block, group=residual_group)
    return quantize_out(layer_norm(y, gamma, beta, epsilon=epsilon), **out)


def sign_gather(ids: I64, rows: U8, scales: Scales, *, columns: int) -> F32:
    """Rows [..., columns] of a table packed as ``row``; scales [P, V or 1]. Ids in [-V, V)."""
    flat = ids.reshape(-1)
    signs = unpack_sign_rows(rows[:, flat], columns)
    scale = scales[:, flat] if scales.shape[1] > 1 else scales
    return sign_dequantize(signs, scale).reshape(*ids.shape, columns)


def sign_embedding_layer_norm(
    ids: I64,
    type_ids: I64,
    position_ids: I64,
    word: U8,
    word_scales: Scales,
    kind: U8,
    kind_exponents: I8,
    position: U8,
    position_exponents: I8,
    gamma: F32,
    beta: F32,
    *,
    columns: int,
    type_bits: int,
    position_bits: int,
    block: int,
    epsilon: float,
    **out: int,
) -> Quantized:
    """As `bqc.ops.reference.embedding_layer_norm`, the word table packed as `sign_gather` reads it."""
    x = sign_gather(ids, word, word_scales, columns=columns)
    x = x + block_gather(type_ids, kind, kind_exponents, columns=columns, bits=type_bits, block=block)
    x = x + block_gather(
        position_ids, position, position_exponents, columns=columns, bits=position_bits, block=block
    )
    return quantize_out(layer_norm(x, gamma, beta, epsilon=epsilon), **out)


def _sum_planes(parts: F32, scales: F32) -> F32:
    """Scaled planes [P, ...] added up in order."""
    result: F32 = parts[0] * scales[0]
    for part, scale in zip(parts[1:], scales[1:], strict=True):
        result = result + part * scale
    return result

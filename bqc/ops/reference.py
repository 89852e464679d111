"""The operators of ``ai.bqc`` in numpy: what every function body and every kernel must equal, bit for bit.

All arithmetic is binary32, one operation at a time, in the order written; integer sums are exact. Shapes:
``...`` is any leading dimensions, ``B`` batch, ``S`` sequence, ``H`` hidden, ``h`` heads, ``d`` head size,
``n`` exponents of a row. A quantised tensor is the pair (codes int8 [..., K], exponents int8 [..., n]); its
blocks are `Blocks(K, block, group)`. Source of the operator list: BBCT (arXiv 2303.09184), abstract; the
arithmetic is ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import ceil_log2, encode, power_of_two, range_exponents, sanitize
from bqc.formats.geometry import Blocks
from bqc.formats.layouts import unpack_rows, unpack_tiles
from bqc.ops import constants as k

__all__ = [
    "block_attention",
    "block_context",
    "block_dequantize",
    "block_dequantize_tiles",
    "block_gather",
    "block_gather_tiles",
    "block_linear",
    "block_linear_add_norm",
    "block_linear_gelu",
    "block_linear_quantize",
    "block_linear_quantize_values",
    "block_linear_relu",
    "block_quantize",
    "block_quantize_values",
    "block_scores",
    "embedding_layer_norm",
    "embedding_layer_norm_tiles",
    "exp2_parts",
    "finite",
    "gelu",
    "layer_norm",
    "masked_logarithms",
    "masked_softmax",
    "quantize_out",
    "softmax_dequantize",
    "split_heads",
    "tanh",
]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
Quantized = tuple[I8, I8]
f32 = np.float32


# Between float and blocks


def block_quantize(x: F32, *, bits: int, block: int, group: int) -> Quantized:
    """Codes and exponents of x [..., K], the exponents found from each block's largest magnitude."""
    clean = sanitize(x)
    blocks = Blocks(x.shape[-1], block, group)
    largest = np.maximum.reduceat(np.abs(clean), blocks.starts, axis=-1)
    exponents = range_exponents(largest, bits)
    return encode(clean, exponents, blocks.owner, bits), exponents


def block_dequantize(codes: I8, exponents: I8, *, block: int, group: int) -> F32:
    """x [..., K] = codes * 2**exponents."""
    owner = Blocks(codes.shape[-1], block, group).owner
    x: F32 = codes.astype(np.float32) * power_of_two(exponents[..., owner])
    return x


def block_quantize_values(x: F32, mask: I64, *, heads: int, bits: int, block: int) -> Quantized:
    """As `block_quantize` of x [B, S, H] in groups of a head, with one exponent for all tokens that the mask
    keeps.

    Returns codes int8 [B, S, H] and exponents int8 [B, n].
    """
    clean = sanitize(x)
    blocks = Blocks(x.shape[-1], block, x.shape[-1] // heads)
    kept = np.where(effective_mask(mask)[..., None], np.abs(clean), f32(0)).max(axis=1, initial=0)
    exponents = range_exponents(np.maximum.reduceat(kept, blocks.starts, axis=-1), bits)
    return encode(clean, exponents[:, None, :], blocks.owner, bits), exponents


# Elementwise and row-wise functions of float


def gelu(x: F32, *, approximate: int) -> F32:
    """x * Phi(x) (approximate 0) or its tanh form (1), by polynomial; exactly x or 0 from |x| = 5."""
    x = sanitize(x)
    t = np.minimum(np.abs(x), f32(k.GELU_LIMIT))
    w = t * t * f32(0.08) - f32(1)
    half = t * _horner(k.GELU_TANH if approximate else k.GELU_ERF, w)
    phi = np.where(x < 0, f32(0.5) - half, f32(0.5) + half)
    phi = np.where(np.abs(x) >= f32(k.GELU_LIMIT), np.where(x < 0, f32(0), f32(1)), phi)
    return x * phi


def tanh(x: F32) -> F32:
    """tanh by 1 - 2 / (2**(2 |x| log2 e) + 1)."""
    x = sanitize(x)
    t = np.minimum(np.abs(x), f32(k.TANH_LIMIT))
    fraction, power = exp2_parts(t * f32(2 * k.LOG2E))
    grown = fraction * power
    y = f32(1) - f32(2) / (grown + f32(1))
    return y * np.where(x < 0, f32(-1), f32(1))


def layer_norm(x: F32, gamma: F32, beta: F32, *, epsilon: float) -> F32:
    """LayerNormalization of rows [..., H] through integers of at most 2**20: exact sums, float64 square root."""
    clean = sanitize(x)
    largest = np.abs(clean).max(axis=-1, keepdims=True, initial=0)
    shift = k.NORM_BITS - np.maximum(ceil_log2(largest), k.NORM_BITS - 126)
    scale = power_of_two(shift)
    q = np.rint(clean * scale).astype(np.int64)
    width = np.float64(x.shape[-1])
    mean = q.sum(axis=-1, keepdims=True).astype(np.float64) / width
    square = (q * q).sum(axis=-1, keepdims=True).astype(np.float64) / width
    variance = np.maximum(square - mean * mean, 0.0)
    wide = scale.astype(np.float64)
    deviation = np.sqrt(variance + np.float64(f32(epsilon)) * (wide * wide))
    inverse = np.minimum(1.0 / deviation, np.float64(k.FLT_MAX)).astype(np.float32)
    centred = q.astype(np.float32) - mean.astype(np.float32)
    return finite(centred * inverse * gamma + beta)


# Linear


def block_linear(
    codes: I8,
    exponents: I8,
    weight: U8,
    weight_exponents: I8,
    bias: F32,
    *,
    bits: int,
    block: int,
    group: int,
) -> F32:
    """y [..., N] = x [..., K] W^T + bias; weight in tiles `n16k4_u<bits>`, its exponents int8 [n, ceil16(N)].

    Blocks in ascending order: ``acc += (float(integer dot) * 2**ew) * 2**ex``, starting at +0.
    """
    rows, columns = bias.shape[0], codes.shape[-1]
    blocks = Blocks(columns, block, group)
    w = unpack_tiles(weight, bits, rows, columns, blocks.span).astype(np.int32)
    x = codes.astype(np.int32)
    acc = np.zeros((*codes.shape[:-1], rows), np.float32)
    for i, (start, size) in enumerate(zip(blocks.starts, blocks.sizes, strict=True)):
        dot = x[..., start : start + size] @ w[:, start : start + size].T
        weight_scale = power_of_two(weight_exponents[i, :rows])
        acc = acc + (dot.astype(np.float32) * weight_scale) * power_of_two(exponents[..., i : i + 1])
    return finite(acc + bias)


def block_linear_quantize(*inputs: Any, bits: int, block: int, group: int, **out: int) -> Quantized:
    """`block_linear`, then `block_quantize` (attributes ``out_bits, out_block, out_group``)."""
    return quantize_out(block_linear(*inputs, bits=bits, block=block, group=group), **out)


def block_linear_quantize_values(
    *inputs: Any, bits: int, block: int, group: int, heads: int, out_bits: int, out_block: int
) -> Quantized:
    """`block_linear`, then `block_quantize_values`; the last input is the mask int64 [B, S]."""
    *linear, mask = inputs
    y = block_linear(*linear, bits=bits, block=block, group=group)
    return block_quantize_values(y, mask, heads=heads, bits=out_bits, block=out_block)


def block_linear_gelu(
    *inputs: Any, bits: int, block: int, group: int, approximate: int, **out: int
) -> Quantized:
    """`block_linear`, then `gelu`, then `block_quantize`."""
    y = block_linear(*inputs, bits=bits, block=block, group=group)
    return quantize_out(gelu(y, approximate=approximate), **out)


def block_linear_relu(*inputs: Any, bits: int, block: int, group: int, **out: int) -> Quantized:
    """`block_linear`, then what of it is above 0, then `block_quantize`."""
    y = block_linear(*inputs, bits=bits, block=block, group=group)
    return quantize_out(np.maximum(y, np.float32(0)), **out)


def block_linear_add_norm(
    codes: I8,
    exponents: I8,
    weight: U8,
    weight_exponents: I8,
    bias: F32,
    residual: I8,
    residual_exponents: I8,
    gamma: F32,
    beta: F32,
    *,
    bits: int,
    block: int,
    group: int,
    residual_block: int,
    residual_group: int,
    epsilon: float,
    **out: int,
) -> Quantized:
    """`layer_norm` of `block_linear` plus the dequantised residual [..., N], then `block_quantize`."""
    y = block_linear(codes, exponents, weight, weight_exponents, bias, bits=bits, block=block, group=group)
    y = y + block_dequantize(residual, residual_exponents, block=residual_block, group=residual_group)
    return quantize_out(layer_norm(y, gamma, beta, epsilon=epsilon), **out)


def block_dequantize_tiles(
    weight: U8, weight_exponents: I8, *, bits: int, block: int, group: int, rows: int, columns: int
) -> F32:
    """The packed weight as a float matrix [K, N]; ``rows`` is N, ``columns`` is K."""
    owner = Blocks(columns, block, group).owner
    codes = unpack_tiles(weight, bits, rows, columns, group or columns)
    return codes.T.astype(np.float32) * power_of_two(weight_exponents[owner, :rows])


# Attention


def block_scores(
    q: I8, q_exponents: I8, key: I8, key_exponents: I8, *, heads: int, block: int, scale: float
) -> F32:
    """Scores [B, h, S, S] = (Q K^T) * scale from quantised [B, S, H] with blocks inside heads."""
    width = q.shape[-1] // heads
    blocks = Blocks(width, block)
    q4, k4 = (split_heads(x, heads).astype(np.int32) for x in (q, key))
    qe, ke = (split_heads(x, heads) for x in (q_exponents, key_exponents))
    acc = np.zeros((*q4.shape[:3], key.shape[1]), np.float32)
    for i, (start, size) in enumerate(zip(blocks.starts, blocks.sizes, strict=True)):
        part = slice(start, start + size)
        dot = q4[..., part] @ k4[..., part].swapaxes(2, 3)
        key_scale = power_of_two(ke[..., i])[:, :, None, :]
        acc = acc + (dot.astype(np.float32) * key_scale) * power_of_two(qe[..., i : i + 1])
    return finite(acc * f32(scale))


def masked_softmax(scores: F32, mask: I64) -> U8:
    """Unnormalised codes uint8 of exp(score - row maximum); 255 for the maximum, 0 for masked keys.

    Scores [B, h, Sq, Sk], mask [B, Sk]. A sequence that the mask empties attends to all its keys alike.
    """
    t, keep = masked_logarithms(scores, mask, k.SOFTMAX_LOW)
    fraction, power = exp2_parts(t)
    codes = np.rint(fraction * (power * f32(k.SOFTMAX_SCALE)))
    return np.where(keep, codes, f32(0)).astype(np.uint8)


def softmax_dequantize(codes: U8) -> F32:
    """Softmax codes [..., S] as probabilities: codes divided by their sum."""
    return f32(codes) / f32(codes.sum(axis=-1, keepdims=True, dtype=np.int32))


def block_context(probabilities: U8, values: I8, value_exponents: I8, *, heads: int, block: int) -> F32:
    """Context [B, S, H] = softmax codes [B, h, S, S] times values, divided by the sum of the row's codes."""
    width = values.shape[-1] // heads
    owner = Blocks(width, block).owner
    v4 = split_heads(values, heads).astype(np.int32)
    exponents = value_exponents.reshape(value_exponents.shape[0], heads, value_exponents.shape[1] // heads)
    dot = probabilities.astype(np.int32) @ v4
    total = probabilities.sum(axis=-1, keepdims=True, dtype=np.int32)
    c4 = (dot.astype(np.float32) * power_of_two(exponents[..., owner])[:, :, None, :]) / total.astype(
        np.float32
    )
    return np.ascontiguousarray(c4.transpose(0, 2, 1, 3)).reshape(values.shape)


def block_attention(
    q: I8,
    q_exponents: I8,
    key: I8,
    key_exponents: I8,
    values: I8,
    value_exponents: I8,
    mask: I64,
    *,
    heads: int,
    block: int,
    scale: float,
    out_bits: int,
) -> Quantized:
    """`block_scores`, `masked_softmax`, `block_context`, then `block_quantize` inside heads."""
    scores = block_scores(q, q_exponents, key, key_exponents, heads=heads, block=block, scale=scale)
    context = block_context(masked_softmax(scores, mask), values, value_exponents, heads=heads, block=block)
    return block_quantize(context, bits=out_bits, block=block, group=q.shape[-1] // heads)


# Embedding


def block_gather(ids: I64, table: U8, exponents: I8, *, columns: int, bits: int, block: int) -> F32:
    """Rows [..., columns] of a table packed as `row_u<bits>`, dequantised. Ids in [-V, V), as Gather takes them."""
    codes = unpack_rows(table[ids.reshape(-1)], bits, columns).reshape(*ids.shape, columns)
    return block_dequantize(codes, exponents[ids], block=block, group=0)


def block_gather_tiles(
    ids: I64, tiles: U8, scales: I8, *, columns: int, rows: int, bits: int, block: int
) -> F32:
    """Rows [..., columns] of a table [rows, columns] packed as `n16k4_u<bits>`, dequantised. Ids in [-rows, rows)."""
    codes = unpack_tiles(tiles, bits, rows, columns)
    return block_dequantize(codes[ids], scales.T[:rows][ids], block=block, group=0)


def embedding_layer_norm(
    ids: I64,
    type_ids: I64,
    position_ids: I64,
    word: U8,
    word_exponents: I8,
    kind: U8,
    kind_exponents: I8,
    position: U8,
    position_exponents: I8,
    gamma: F32,
    beta: F32,
    *,
    columns: int,
    word_bits: int,
    type_bits: int,
    position_bits: int,
    block: int,
    epsilon: float,
    **out: int,
) -> Quantized:
    """`layer_norm` of (word + type) + position, then `block_quantize`; ids [B, S], position_ids [1 or B, S]."""
    x = block_gather(ids, word, word_exponents, columns=columns, bits=word_bits, block=block)
    x = x + block_gather(type_ids, kind, kind_exponents, columns=columns, bits=type_bits, block=block)
    x = x + block_gather(
        position_ids, position, position_exponents, columns=columns, bits=position_bits, block=block
    )
    return quantize_out(layer_norm(x, gamma, beta, epsilon=epsilon), **out)


def embedding_layer_norm_tiles(
    ids: I64,
    type_ids: I64,
    position_ids: I64,
    tiles: U8,
    scales: I8,
    kind: U8,
    kind_exponents: I8,
    position: U8,
    position_exponents: I8,
    gamma: F32,
    beta: F32,
    *,
    columns: int,
    rows: int,
    word_bits: int,
    type_bits: int,
    position_bits: int,
    block: int,
    epsilon: float,
    **out: int,
) -> Quantized:
    """As `embedding_layer_norm`, the word table packed as `block_gather_tiles` reads it."""
    x = block_gather_tiles(ids, tiles, scales, columns=columns, rows=rows, bits=word_bits, block=block)
    x = x + block_gather(type_ids, kind, kind_exponents, columns=columns, bits=type_bits, block=block)
    x = x + block_gather(
        position_ids, position, position_exponents, columns=columns, bits=position_bits, block=block
    )
    return quantize_out(layer_norm(x, gamma, beta, epsilon=epsilon), **out)


# Shared steps


def finite(x: F32) -> F32:
    """NaN -> 0, infinities -> +-FLT_MAX."""
    return np.clip(np.where(np.isnan(x), f32(0), x), f32(-k.FLT_MAX), f32(k.FLT_MAX))


def effective_mask(mask: I64) -> NDArray[np.bool_]:
    """mask != 0, or all true in a sequence where nothing is."""
    keep = mask != 0
    return keep | ~keep.any(axis=-1, keepdims=True)


def quantize_out(y: F32, *, out_bits: int, out_block: int, out_group: int) -> Quantized:
    """`block_quantize` by the attributes of an operator that ends in it."""
    return block_quantize(y, bits=out_bits, block=out_block, group=out_group)


@np.errstate(over="ignore")
def masked_logarithms(scores: F32, mask: I64, low: float) -> tuple[F32, NDArray[np.bool_]]:
    """(score - row maximum) * log2(e) between ``low`` and 0, and the keys that a mask [B, Sk] keeps, [B, 1, 1, Sk].

    All scores [B, h, Sq, Sk] of a sequence that the mask empties are alike.
    """
    keep = effective_mask(mask)[:, None, None, :]
    alive = (mask != 0).any(axis=-1)[:, None, None, None]
    s = np.where(alive, sanitize(scores), f32(0))
    top = np.where(keep, s, f32(-k.FLT_MAX)).max(axis=-1, keepdims=True, initial=-k.FLT_MAX)
    return np.minimum(np.maximum((s - top) * f32(k.LOG2E), f32(low)), f32(0)), keep


def exp2_parts(t: F32) -> tuple[F32, F32]:
    """2**t as a fraction in [1, 2] and a power of two, for t in [-126, 127]."""
    whole = np.floor(t)
    return _horner(k.EXP2, t - whole), power_of_two(whole)


def split_heads(x: NDArray[Any], heads: int) -> NDArray[Any]:
    """[B, S, H] as [B, h, S, d]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def _horner(coefficients: tuple[float, ...], x: F32) -> F32:
    acc = np.full_like(x, f32(coefficients[-1]))
    for c in coefficients[-2::-1]:
        acc = acc * x + f32(c)
    return acc

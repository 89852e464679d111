"""The operators on sequences without padding in numpy; see `bqc.ops.reference`.

``T`` is the number of tokens of all sequences, ``seq_start`` int64 [B + 1] where each begins and, last, T.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bqc.ops.float_reference import float_attention
from bqc.ops.reference import F32, I8, I64, Quantized, block_attention, block_quantize_values

__all__ = ["ragged_block_attention", "ragged_block_quantize_values", "ragged_float_attention"]


def ragged_block_quantize_values(
    x: F32, mask: I64, seq_start: I64, *, heads: int, bits: int, block: int
) -> Quantized:
    """`block_quantize_values` of x [T, H] by a mask [T]: codes int8 [T, H], exponents int8 [B, n]."""
    padded, masked = (_padded(part, seq_start) for part in (x, mask))
    codes, exponents = block_quantize_values(padded, masked, heads=heads, bits=bits, block=block)
    return codes[_taken(seq_start)], exponents


def ragged_block_attention(
    q: I8,
    q_exponents: I8,
    key: I8,
    key_exponents: I8,
    values: I8,
    value_exponents: I8,
    mask: I64,
    seq_start: I64,
    *,
    heads: int,
    block: int,
    scale: float,
    out_bits: int,
) -> Quantized:
    """`block_attention` of codes [T, H] and exponents [T, n], values' [B, n], by a mask [T], as if every sequence were
    padded to the longest and masked there."""
    codes, exponents = block_attention(
        _padded(q, seq_start),
        _padded(q_exponents, seq_start),
        _padded(key, seq_start),
        _padded(key_exponents, seq_start),
        _padded(values, seq_start),
        value_exponents,
        _padded(mask, seq_start),
        heads=heads,
        block=block,
        scale=scale,
        out_bits=out_bits,
    )
    taken = _taken(seq_start)
    return codes[taken], exponents[taken]


def ragged_float_attention(
    q: F32, key: F32, values: F32, mask: I64, seq_start: I64, *, heads: int, scale: float
) -> F32:
    """`float_attention` of queries, keys and values [T, H] by a mask [T], as if every sequence were padded to the
    longest and masked there: [T, H]."""
    padded = (_padded(part, seq_start) for part in (q, key, values, mask))
    return float_attention(*padded, heads=heads, scale=scale)[_taken(seq_start)]


def _taken(seq_start: I64) -> NDArray[np.bool_]:
    """Which places of the padded batch [B, S] have a token."""
    lengths = np.diff(seq_start)
    places: NDArray[np.bool_] = np.arange(lengths.max(initial=0)) < lengths[:, None]
    return places


def _padded(x: NDArray[Any], seq_start: I64) -> NDArray[Any]:
    """[T, ...] as [B, S, ...], zero where there is no token."""
    taken = _taken(seq_start)
    padded = np.zeros((*taken.shape, *x.shape[1:]), x.dtype)
    padded[taken] = x
    return padded

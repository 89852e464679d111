"""Attention of float32 numbers, in numpy; as `bqc.ops.reference`.

One sum a result, its terms in order, makes the bits the same everywhere. A weight of 0 changes no sum, so that keys
that a mask hides may as well not be there.
"""

from __future__ import annotations

import numpy as np

from bqc.formats.block_shift import sanitize
from bqc.ops import constants as k
from bqc.ops.reference import F32, I64, exp2_parts, f32, masked_logarithms, split_heads

__all__ = ["float_attention"]


@np.errstate(over="ignore", invalid="ignore")
def float_attention(q: F32, key: F32, values: F32, mask: I64, *, heads: int, scale: float) -> F32:
    """Context [B, S, H] of queries, keys and values [B, S, H] and a key padding mask [B, S].

    ``score = scale * (q[0] * k[0] + q[1] * k[1] + ...)``, ``weight = exp(score - row maximum)``, and the context is
    ``(weight[0] * v[0] + weight[1] * v[1] + ...) / (weight[0] + weight[1] + ...)``: sums in float32, each from +0 in
    ascending order. Inputs, scores and context are sanitised: NaN and subnormal numbers are 0, infinities +-FLT_MAX. A
    sequence that the mask empties attends to all its keys alike.
    """
    q4, k4, v4 = (split_heads(sanitize(x), heads) for x in (q, key, values))
    scores = np.zeros((*q4.shape[:3], key.shape[1]), np.float32)
    for c in range(q4.shape[-1]):
        scores = scores + q4[..., c, None] * k4[..., None, :, c]
    t, keep = masked_logarithms(scores * f32(scale), mask, k.FLOAT_SOFTMAX_LOW)
    fraction, power = exp2_parts(t)
    weights = np.where(keep, fraction * power, f32(0))
    mixed, total = np.zeros_like(q4), np.zeros((*q4.shape[:3], 1), np.float32)
    for j in range(key.shape[1]):
        mixed = mixed + weights[..., j, None] * v4[..., j, None, :]
        total = total + weights[..., j, None]
    return np.ascontiguousarray(sanitize(mixed / total).transpose(0, 2, 1, 3)).reshape(q.shape)

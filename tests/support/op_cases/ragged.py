"""Operators on tokens of sequences without their padding."""

from __future__ import annotations

import numpy as np

from bqc.ops import ragged_reference
from tests.support.op_cases.case import Array, Case, Sizes

__all__ = ["ragged_cases"]


def ragged_cases(
    s: Sizes, mask: Array, tokens_of: list[Array], x: Array, odd: Array, rng: np.random.Generator
) -> list[Case]:
    """The same tokens as sequences of other lengths, some perhaps of none."""
    tokens = s.batch * s.length
    cuts = np.sort(rng.integers(0, tokens + 1, max(s.batch - 1, 0)))
    seq_start = np.array([0, *cuts, tokens][: s.batch + 1], np.int64)
    attention = {"heads": s.heads, "block": min(s.block, s.width)}
    *flat, x, odd = (part.reshape(tokens, part.shape[-1]) for part in (*tokens_of, x, odd))
    keep = mask.reshape(tokens).copy()
    keep[: seq_start[1 % len(seq_start)]] *= s.seed % 2  # in some, nothing is kept of the first sequence
    make = {**attention, "bits": s.out_bits}
    values = ragged_reference.ragged_block_quantize_values(x, keep, seq_start, **make)
    scale = float(np.float32(s.width**-0.5))
    return [
        Case("RaggedBlockQuantizeValues", [odd, keep, seq_start], make),
        Case(
            "RaggedBlockAttention",
            [*flat, *values, keep, seq_start],
            {**attention, "scale": scale, "out_bits": s.out_bits},
        ),
    ]

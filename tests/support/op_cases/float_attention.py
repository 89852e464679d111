"""Attention of float32 numbers."""

from __future__ import annotations

import numpy as np

from tests.support.op_cases.case import Case, Sizes, draw_floats, with_special

__all__ = ["float_attention_cases"]


def float_attention_cases(s: Sizes, rng: np.random.Generator, others: list[Case]) -> list[Case]:
    """With the masks and the sequences of attention over codes."""
    given = {case.op: case.inputs for case in others}
    mask, (keep, seq_start) = given["BlockAttention"][-1], given["RaggedBlockAttention"][-2:]
    shape, tokens = (s.batch, s.length, s.hidden), (s.batch * s.length, s.hidden)
    plain = [draw_floats(rng, s, *shape) for _ in range(3)]
    odd = [with_special(rng, draw_floats(rng, s, *shape, wide=True)) for _ in range(3)]
    attributes = {"heads": s.heads, "scale": float(np.float32(s.width**-0.5))}
    return [
        Case("FloatAttention", [*plain, mask], attributes),
        Case("FloatAttention", [*odd, mask], attributes),
        Case(
            "RaggedFloatAttention",
            [*(x.reshape(tokens) for x in (*plain[:2], odd[2])), keep, seq_start],
            attributes,
        ),
    ]

"""Operators over fp16 numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bqc.formats.strips import pack_strips
from tests.support.op_cases.case import Array, Case, Sizes, draw_floats, with_special

__all__ = ["half_cases"]


def half_cases(s: Sizes, rng: np.random.Generator, blocks: list[Case]) -> list[Case]:
    """The operators over fp16 numbers and indices of them, with the ids of those over blocks."""
    ids = next(case.inputs[0] for case in blocks if case.op == "BlockGather")
    x = with_special(rng, draw_floats(rng, s, s.batch, s.length, s.hidden, wide=True))
    rng = np.random.default_rng(s.seed + 100)
    n, k, rows = s.ffn, s.hidden, 21

    def halves(*shape: int) -> Array:
        """Ordinary numbers, and any finite pattern of bits."""
        ordinary = (rng.standard_normal(shape) * 0.1).astype(np.float16)
        wild = rng.integers(0, 0x7C00, shape).astype(np.uint16) | rng.choice(
            np.array([0, 0x8000], np.uint16), shape
        )
        return np.where(rng.random(shape) < 0.1, wild.view(np.float16), ordinary)

    table, bias = halves(256), rng.standard_normal(n).astype(np.float32)
    bias[:1] = np.inf
    codes, words = (rng.integers(0, 256, (count, k)).astype(np.uint8) for count in (n, rows))
    weight, known = halves(n, k), halves(rows, k)
    residual = with_special(rng, draw_floats(rng, s, s.batch, s.length, n, wide=True))
    norm = [rng.standard_normal(n).astype(np.float32) for _ in range(2)]
    lookup, strips, row = {"columns": k}, {"layout": "n16"}, {"layout": "row"}
    tiled = {"columns": k, "rows": rows}
    return [
        Case("HalfRound", [x], {}),
        Case("HalfDequantize", [weight], {}),
        Case("HalfDequantizeTiles", [pack_strips(weight)], {"rows": n, "columns": k}, (0,), layout=strips),
        Case("HalfLinear", [x, pack_strips(weight), bias], {}, (1, 2), layout=strips),
        *(
            Case(
                f"HalfLinear{form}",
                [x, pack_strips(weight), bias, *more],
                options,
                (1, 2, *(3 + at for at in constants)),
                layout=strips,
            )
            for form, more, constants, options in _forms(residual, norm)
        ),
        Case("HalfGather", [ids * 3, known], lookup, (1,), layout=row),
        Case("HalfGatherTiles", [ids * 3, pack_strips(known)], tiled, (1,), layout=strips),
        Case("IndexDequantize", [codes, table], {}),
        Case(
            "IndexDequantizeTiles",
            [pack_strips(codes), table],
            {"rows": n, "columns": k},
            (0, 1),
            layout=strips,
        ),
        Case("IndexLinear", [x, pack_strips(codes), table, bias], {}, (1, 2, 3), layout=strips),
        *(
            Case(
                f"IndexLinear{form}",
                [x, pack_strips(codes), table, bias, *more],
                options,
                (1, 2, 3, *(4 + at for at in constants)),
                layout=strips,
            )
            for form, more, constants, options in _forms(residual, norm)
        ),
        Case("IndexGather", [ids * 3, words, table], lookup, (1, 2), layout=row),
        Case("IndexGatherTiles", [ids * 3, pack_strips(words), table], tiled, (1, 2), layout=strips),
    ]


def _forms(residual: Array, norm: list[Array]) -> list[tuple[str, list[Array], list[int], dict[str, Any]]]:
    """Fused forms of a linear: what its name ends in, inputs behind the bias, which are constant, attributes."""
    return [
        ("Gelu", [], [], {"approximate": 0}),
        ("Gelu", [], [], {"approximate": 1}),
        ("Relu", [], [], {}),
        ("AddNorm", [residual, *norm], [1, 2], {"epsilon": 1e-5}),
    ]

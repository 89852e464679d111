"""Operators on signs by signs."""

from __future__ import annotations

import numpy as np

from bqc.formats.bit_layouts import pack_bit_tiles
from tests.support.op_cases.case import Array, Case, Sizes

__all__ = ["xnor_cases"]


def xnor_cases(s: Sizes, rng: np.random.Generator, blocks: list[Case]) -> list[Case]:
    """The operators on signs by signs, with residuals and norms of those over blocks; stray bits are set."""
    named = {case.op: case for case in blocks}
    shared = s.seed % 2 == 0
    layout = {"layout": "n16k64"}

    def bits(k: int) -> Array:
        return rng.integers(0, 256, (s.batch, s.length, -(-k // 8))).astype(np.uint8)

    def weight(n: int, k: int) -> list[Array]:
        tiles = rng.integers(0, 256, pack_bit_tiles(np.ones((n, k), np.int8)).shape).astype(np.uint8)
        scales = rng.standard_normal(1 if shared else tiles.shape[0] * 16)
        scales[::7] *= shared  # a zero now and then
        bias = rng.integers(-2, 3, n) * np.abs(scales[0] if shared else scales[:n])
        return [tiles, scales.astype(np.float32), bias.astype(np.float32)]

    add_norm = named["SignLinearAddNorm"]
    return [
        Case("Binarize", named["BlockQuantize"].inputs, {}),
        Case("BinarizeCodes", [add_norm.inputs[0]], {}),
        Case("BinaryDequantize", [bits(s.ffn)], {"columns": s.ffn}),
        Case(
            "XnorDequantize",
            [rng.choice(np.array([-1, 1], np.int8), (s.ffn, s.hidden)), np.abs(weight(1, 1)[1][:1])],
            {},
        ),
        Case(
            "XnorDequantizeTiles",
            weight(s.ffn, s.hidden)[:2],
            {"rows": s.ffn, "columns": s.hidden},
            (0, 1),
            layout=layout,
        ),
        *(
            Case(
                f"XnorLinear{form}",
                [bits(s.hidden), *weight(s.ffn, s.hidden)],
                {"columns": s.hidden},
                (1, 2, 3),
                layout=layout,
            )
            for form in ("", "Binarize")
        ),
        Case(
            "XnorLinearAddNorm",
            [bits(s.ffn), *weight(s.hidden, s.ffn), *add_norm.inputs[5:]],
            {
                "columns": s.ffn,
                **{key: value for key, value in add_norm.attributes.items() if key not in ("block", "group")},
            },
            (1, 2, 3, 6, 7),
            layout=layout,
        ),
    ]

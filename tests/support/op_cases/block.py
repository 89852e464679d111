"""Operators over blocks of integers."""

from __future__ import annotations

import numpy as np

from bqc.formats import Blocks, BlockShift
from bqc.ops import reference
from bqc.ops.constants import FLT_MAX
from tests.support.op_cases.case import Array, Case, Sizes, draw_floats, with_special
from tests.support.op_cases.ragged import ragged_cases

__all__ = ["block_cases"]


def block_cases(s: Sizes, rng: np.random.Generator) -> list[Case]:
    """The operators over blocks, those that quantise among them, and what stays float between them."""

    def floats(*shape: int, wide: bool = False) -> Array:
        return draw_floats(rng, s, *shape, wide=wide)

    def special(x: Array) -> Array:
        return with_special(rng, x)

    hidden, lead = s.hidden, (s.batch, s.length)
    inner = min(s.block, s.width)
    mask = np.ones(lead, np.int64)
    if s.batch > 1 and s.length > 1:
        mask[0, s.length // 2 + 1 :] = 0
        mask[1, : s.length // 3] = 0
    if s.batch > 2:
        mask[2] = 0
    out = {"out_bits": s.out_bits, "out_block": s.block, "out_group": 0}
    quant = reference.block_quantize
    geometry = {"bits": s.bits, "block": s.block, "group": 0}

    def linear(k: int, n: int, group: int = 0) -> list[Array]:
        fmt = BlockShift(s.bits, 16, group)
        span = Blocks(k, s.block, group)
        codes = rng.integers(fmt.low, fmt.high + 1, (n, k)).astype(np.int8)
        exponents = rng.integers(-14, -5, (span.count, -(-n // 16) * 16)).astype(np.int8)
        x = quant(floats(*lead, k, wide=True), bits=s.out_bits, block=s.block, group=group)
        return [*x, fmt.pack_matrix(codes), exponents, floats(n)]

    weights = (2, 3, 4)
    tiles = {"layout": "n16k4"}
    head = quant(floats(*lead, hidden), bits=s.out_bits, block=inner, group=s.width)
    key = quant(floats(*lead, hidden), bits=s.out_bits, block=inner, group=s.width)
    values = reference.block_quantize_values(
        floats(*lead, hidden), mask, heads=s.heads, bits=s.out_bits, block=inner
    )
    scores = floats(s.batch, s.heads, s.length, s.length, wide=True)
    codes = reference.masked_softmax(scores, mask)
    residual = quant(floats(*lead, hidden, wide=True), bits=8, block=s.block, group=0)
    gamma, beta = floats(hidden), floats(hidden)
    table = BlockShift(s.bits, 16)
    ids = rng.integers(-7, 7, lead)

    def rows(count: int) -> list[Array]:
        raw = rng.integers(table.low, table.high + 1, (count, hidden)).astype(np.int8)
        blocks = Blocks(hidden, s.block)
        return [table.pack_rows(raw), rng.integers(-9, -3, (count, blocks.count)).astype(np.int8)]

    def tiled(count: int) -> list[Array]:
        raw = rng.integers(table.low, table.high + 1, (count, hidden)).astype(np.int8)
        scales = rng.integers(-9, -3, (Blocks(hidden, s.block).count, -(-count // 16) * 16))
        return [table.pack_matrix(raw), scales.astype(np.int8)]

    position = np.arange(s.length, dtype=np.int64)[None]
    attention = {"heads": s.heads, "block": inner}
    return [
        *ragged_cases(s, mask, [*head, *key], floats(*lead, hidden), special(floats(*lead, hidden)), rng),
        Case(
            "BlockQuantize",
            [special(floats(*lead, hidden, wide=True))],
            {"bits": s.out_bits, "block": s.block, "group": s.width},
        ),
        Case(
            "BlockQuantize",
            [special(floats(*lead, hidden, wide=True))],
            {"bits": s.out_bits, "block": s.block, "group": 0},
        ),
        Case("BlockDequantize", list(residual), {"block": s.block, "group": 0}),
        Case(
            "BlockQuantizeValues", [special(floats(*lead, hidden)), mask], {**attention, "bits": s.out_bits}
        ),
        *(
            Case(
                "StaticQuantize",
                [special(floats(*lead, hidden, wide=True)), np.array([exponent], np.float32)],
                {"bits": s.out_bits, "block": s.block, "group": group, "minimum": minimum},
            )
            for exponent, group, minimum in (
                (-2.5, 0, -FLT_MAX),
                (-1.7, s.width, -0.17),
                (-9.2, 0, -0.17),
                (np.inf, 0, 0.0),
                (-np.inf, 0, -1e-36),
                (np.nan, 0, -1.0),
            )
        ),
        *(
            Case(
                "StaticQuantizeValues",
                [special(floats(*lead, hidden)), np.array([exponent], np.float32)],
                {**attention, "bits": s.out_bits},
            )
            for exponent in (-3.0, 200.0)
        ),
        Case("Gelu", [special(floats(*lead, s.ffn) * 3)], {"approximate": s.seed % 2}),
        Case("Tanh", [special(floats(*lead, s.ffn) * 3)], {}),
        Case(
            "LayerNorm", [special(floats(*lead, hidden, wide=True)), gamma, beta], {"epsilon": 1e-12}, (1, 2)
        ),
        Case("BlockLinear", linear(hidden, s.ffn), geometry, weights, layout=tiles),
        Case(
            "BlockLinear",
            linear(hidden, s.ffn, s.width),
            {**geometry, "group": s.width},
            weights,
            layout=tiles,
        ),
        Case(
            "BlockDequantizeTiles",
            linear(hidden, s.ffn, s.width)[2:4],
            {**geometry, "group": s.width, "rows": s.ffn, "columns": hidden},
            (0, 1),
            layout=tiles,
        ),
        Case("SoftmaxDequantize", [codes], {}),
        Case(
            "BlockLinearQuantize",
            linear(hidden, hidden),
            {**geometry, **out, "out_group": s.width},
            weights,
            layout=tiles,
        ),
        Case(
            "BlockLinearQuantizeValues",
            [*linear(hidden, hidden), mask],
            {**geometry, "heads": s.heads, "out_bits": s.out_bits, "out_block": inner},
            weights,
            layout=tiles,
        ),
        Case(
            "BlockLinearGelu",
            linear(hidden, s.ffn),
            {**geometry, "approximate": s.seed % 2, **out},
            weights,
            layout=tiles,
        ),
        Case("BlockLinearRelu", linear(hidden, s.ffn), {**geometry, **out}, weights, layout=tiles),
        Case(
            "BlockLinearAddNorm",
            [*linear(s.ffn, hidden), *residual, gamma, beta],
            {**geometry, "residual_block": s.block, "residual_group": 0, "epsilon": 1e-12, **out},
            (*weights, 7, 8),
            layout=tiles,
        ),
        Case("BlockScores", [*head, *key], {**attention, "scale": float(np.float32(s.width**-0.5))}),
        Case("MaskedSoftmax", [special(scores), mask], {}),
        Case("BlockContext", [codes, *values], attention),
        Case(
            "BlockAttention",
            [*head, *key, *values, mask],
            {**attention, "scale": float(np.float32(s.width**-0.5)), "out_bits": s.out_bits},
        ),
        Case(
            "BlockGather",
            [ids, *rows(7)],
            {"columns": hidden, "bits": s.bits, "block": s.block},
            (1, 2),
            layout={"layout": "row"},
        ),
        Case(
            "EmbeddingLayerNorm",
            [ids, ids % 2, position, *rows(7), *rows(2), *rows(max(s.length, 1)), gamma, beta],
            {
                "columns": hidden,
                "word_bits": s.bits,
                "type_bits": s.bits,
                "position_bits": s.bits,
                "block": s.block,
                "epsilon": 1e-12,
                **out,
            },
            tuple(range(3, 11)),
            layout={"layout": "row"},
        ),
        Case(
            "BlockGatherTiles",
            [ids * 3, *tiled(21)],
            {"columns": hidden, "rows": 21, "bits": s.bits, "block": s.block},
            (1, 2),
            layout=tiles,
        ),
        Case(
            "EmbeddingLayerNormTiles",
            [ids * 3, ids % 2, position, *tiled(21), *rows(2), *rows(max(s.length, 1)), gamma, beta],
            {
                "columns": hidden,
                "rows": 21,
                "word_bits": s.bits,
                "type_bits": s.bits,
                "position_bits": s.bits,
                "block": s.block,
                "epsilon": 1e-12,
                **out,
            },
            tuple(range(3, 11)),
            layout={"word_layout": "n16k4", "layout": "row"},
        ),
    ]

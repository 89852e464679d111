"""Lookup in packed tables, and the whole embedding block."""

import numpy as np
from onnx import numpy_helper
from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops.bodies.elementary import BlockDequantize, BlockQuantize, LayerNorm, ai_bqc
from bqc.ops.bodies.linear import FOUR, NIBBLE, PAIR, SINGLE, TWO, UnpackTileCodes

CODE_OFFSETS = numpy_helper.from_array(np.array([0, 0, 2, 4, 8, 16, 32, 64, 128], np.int32))
SIX = numpy_helper.from_array(np.array(6, np.uint8))
ROW_SHIFTS = numpy_helper.from_array(np.arange(8, dtype=np.uint8).reshape(8, 1))


@script(ai_bqc)
def UnpackRowPairs(packed):
    """uint8 [..., n] to [..., 4 n], lowest bits first."""
    pair = op.Constant(value=PAIR)
    return op.Concat(
        op.BitwiseAnd(packed, pair),
        op.BitwiseAnd(op.BitShift(packed, op.Constant(value=TWO), direction="RIGHT"), pair),
        op.BitwiseAnd(op.BitShift(packed, op.Constant(value=FOUR), direction="RIGHT"), pair),
        op.BitShift(packed, op.Constant(value=SIX), direction="RIGHT"),
        axis=-1,
    )


@script(ai_bqc)
def UnpackRowSingles(packed):
    """uint8 [..., n] to single bits [..., 8 n], the lowest first."""
    rows = op.Unsqueeze(packed, op.Constant(value_ints=[-2]))
    shifted = op.BitShift(rows, op.Constant(value=ROW_SHIFTS), direction="RIGHT")
    singles = op.BitwiseAnd(shifted, op.Constant(value=SINGLE))
    length = op.Mul(op.Shape(packed, start=-1), op.Constant(value_ints=[8]))
    return op.Reshape(singles, op.Concat(op.Shape(packed, end=-1), length, axis=0), allowzero=1)


@script(ai_bqc)
def UnpackRowThreeBits(packed):
    """Rows of 3-bit codes, uint8 [..., 3 n], to unsigned codes [..., 8 n]."""
    count = op.Shape(packed, start=-1)
    pair_bytes = op.Div(op.Mul(count, op.Constant(value_ints=[2])), op.Constant(value_ints=[3]))
    last = op.Constant(value_ints=[-1])
    pairs = UnpackRowPairs(op.Slice(packed, op.Constant(value_ints=[0]), pair_bytes, last))
    singles = UnpackRowSingles(op.Slice(packed, pair_bytes, count, last))
    return op.BitwiseOr(pairs, op.BitShift(singles, op.Constant(value=TWO), direction="LEFT"))


@script(ai_bqc)
def UnpackRows(packed, bits: int = 8, columns: int = 768):
    """Rows uint8 [..., bytes] of layout row to codes int8 [..., columns]."""
    width = op.Constant(value_int=bits)
    last = op.Constant(value_ints=[-1])
    if op.Equal(width, op.Constant(value_int=8)):
        unsigned = op.Identity(packed)
    else:
        if op.Equal(width, op.Constant(value_int=2)):
            unsigned = UnpackRowPairs(packed)
        else:
            if op.Equal(width, op.Constant(value_int=3)):
                unsigned = UnpackRowThreeBits(packed)
            else:
                low_bytes = op.Div(op.Mul(op.Shape(packed, start=-1), op.Constant(value_ints=[4])), width)
                low = op.Slice(packed, op.Constant(value_ints=[0]), low_bytes, last)
                nibbles = op.Concat(
                    op.BitwiseAnd(low, op.Constant(value=NIBBLE)),
                    op.BitShift(low, op.Constant(value=FOUR), direction="RIGHT"),
                    axis=-1,
                )
                if op.Equal(width, op.Constant(value_int=4)):
                    unsigned = op.Identity(nibbles)
                else:
                    pairs = UnpackRowPairs(op.Slice(packed, low_bytes, op.Shape(packed, start=-1), last))
                    raised = op.BitShift(pairs, op.Constant(value=FOUR), direction="LEFT")
                    unsigned = op.BitwiseOr(nibbles, raised)
    offset = op.Gather(op.Constant(value=CODE_OFFSETS), width)
    codes = op.Cast(op.Sub(op.Cast(unsigned, to=6), offset), to=3)
    end = op.Reshape(op.Constant(value_int=columns), op.Constant(value_ints=[1]))
    return op.Slice(codes, op.Constant(value_ints=[0]), end, last)


@script(ai_bqc)
def BlockGather(
    ids, table, exponents, columns: int = 768, bits: int = 8, block: int = 64, layout: str = "row"
):
    """Dequantised rows, float [..., columns], of a packed table."""
    codes = UnpackRows(op.Gather(table, ids), bits=bits, columns=columns)
    return BlockDequantize(codes, op.Gather(exponents, ids), block=block, group=0)


@script(ai_bqc)
def BlockGatherTiles(
    ids,
    tiles,
    scales,
    columns: int = 768,
    rows: int = 768,
    bits: int = 8,
    block: int = 64,
    layout: str = "n16k4",
):
    """Dequantised rows, float [..., columns], of a table packed as the weight of a linear."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    first = op.Constant(value_ints=[0])
    last = op.Constant(value_ints=[-1])
    four = op.Constant(value_ints=[4])
    sixteen = op.Constant(value_int=16)
    count = op.Reshape(op.Size(ids), op.Constant(value_ints=[1]))
    flat = op.Reshape(ids, count, allowzero=1)
    row = op.Gather(op.Range(zero, op.Constant(value_int=rows), one), flat)
    steps = op.Shape(tiles, start=1, end=2)
    start = op.Add(op.Mul(op.Div(row, sixteen), op.Mul(steps, sixteen)), op.Mod(row, sixteen))
    step = op.Mul(op.Range(zero, op.Squeeze(steps), one), sixteen)
    words = op.Reshape(tiles, op.Concat(last, four, axis=0))
    lanes = op.Gather(words, op.Add(op.Unsqueeze(start, last), step))
    lane = op.Unsqueeze(lanes, op.Constant(value_ints=[2]))
    unsigned = UnpackTileCodes(lane, bits=bits)
    length = op.Mul(op.Shape(unsigned, start=1, end=2), four)
    padded = op.Reshape(unsigned, op.Concat(count, length, axis=0), allowzero=1)
    width = op.Reshape(op.Constant(value_int=columns), op.Constant(value_ints=[1]))
    offset = op.Gather(op.Constant(value=CODE_OFFSETS), op.Constant(value_int=bits))
    codes = op.Cast(op.Sub(op.Cast(op.Slice(padded, first, width, last), to=6), offset), to=3)
    exponents = op.Transpose(op.Gather(scales, row, axis=1), perm=[1, 0])
    y = BlockDequantize(codes, exponents, block=block, group=0)
    return op.Reshape(y, op.Concat(op.Shape(ids), width, axis=0), allowzero=1)


@script(ai_bqc)
def EmbeddingLayerNorm(
    ids,
    type_ids,
    position_ids,
    word,
    word_exponents,
    kind,
    kind_exponents,
    position,
    position_exponents,
    gamma,
    beta,
    columns: int = 768,
    word_bits: int = 8,
    type_bits: int = 8,
    position_bits: int = 8,
    block: int = 64,
    layout: str = "row",
    epsilon: float = 1e-12,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`LayerNorm` of (word + type) + position, then `BlockQuantize`."""
    w = BlockGather(ids, word, word_exponents, columns=columns, bits=word_bits, block=block, layout=layout)
    t = BlockGather(
        type_ids, kind, kind_exponents, columns=columns, bits=type_bits, block=block, layout=layout
    )
    p = BlockGather(
        position_ids,
        position,
        position_exponents,
        columns=columns,
        bits=position_bits,
        block=block,
        layout=layout,
    )
    x = LayerNorm(op.Add(op.Add(w, t), p), gamma, beta, epsilon=epsilon)
    codes, out_exponents = BlockQuantize(x, bits=out_bits, block=out_block, group=out_group)
    return codes, out_exponents


@script(ai_bqc)
def EmbeddingLayerNormTiles(
    ids,
    type_ids,
    position_ids,
    tiles,
    scales,
    kind,
    kind_exponents,
    position,
    position_exponents,
    gamma,
    beta,
    columns: int = 768,
    rows: int = 768,
    word_bits: int = 8,
    type_bits: int = 8,
    position_bits: int = 8,
    block: int = 64,
    word_layout: str = "n16k4",
    layout: str = "row",
    epsilon: float = 1e-12,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`EmbeddingLayerNorm` of a word table packed as the weight of a linear."""
    w = BlockGatherTiles(
        ids, tiles, scales, columns=columns, rows=rows, bits=word_bits, block=block, layout=word_layout
    )
    t = BlockGather(
        type_ids, kind, kind_exponents, columns=columns, bits=type_bits, block=block, layout=layout
    )
    p = BlockGather(
        position_ids,
        position,
        position_exponents,
        columns=columns,
        bits=position_bits,
        block=block,
        layout=layout,
    )
    x = LayerNorm(op.Add(op.Add(w, t), p), gamma, beta, epsilon=epsilon)
    codes, out_exponents = BlockQuantize(x, bits=out_bits, block=out_block, group=out_group)
    return codes, out_exponents

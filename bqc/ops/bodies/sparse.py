"""N:M-sparse weights: linears and their fused forms."""

import numpy as np
from onnx import numpy_helper
from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops.bodies.elementary import (
    BlockDequantize,
    BlockOwner,
    BlockQuantize,
    Finite,
    Gelu,
    LayerNorm,
    PowerOfTwo,
    ai_bqc,
)
from bqc.ops.bodies.linear import FOUR, NIBBLE, OFFSETS, PAIR, ZERO_POINT, BlockQuantizeValues, PadGroups
from bqc.ops.bodies.signs import BIT, ROW_SHIFTS

PAIR_SHIFTS = numpy_helper.from_array(np.arange(0, 8, 2, dtype=np.uint8).reshape(4, 1))
NO_BITS = numpy_helper.from_array(np.array(0, np.uint8))
TWO = numpy_helper.from_array(np.array(2, np.uint8))
SLOTS = numpy_helper.from_array(np.arange(4, dtype=np.int64))


@script(ai_bqc)
def UnpackSparseTiles(tiles, kept: int = 2, of: int = 4, bits: int = 8):
    """Tiles of layout n16s4, uint8 [strips, bytes], to unsigned codes uint8 [K', ceil16(N)]."""
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    last = op.Constant(value_ints=[-1])
    four = op.Constant(value_ints=[4])
    eight = op.Constant(value_ints=[8])
    sixteen = op.Constant(value_ints=[16])
    width = op.Reshape(op.Constant(value_int=bits), one)
    every = op.Reshape(op.Constant(value_int=of), one)
    some = op.Reshape(op.Constant(value_int=kept), one)
    strips = op.Shape(tiles, end=1)
    # Bytes of a step: codes, the low bits of indices, and the third ones of eight inputs.
    code_bytes = op.Mul(width, eight)
    high_bytes = op.Mul(op.Sub(every, four), op.Constant(value_ints=[2]))
    step = op.Add(op.Add(code_bytes, sixteen), high_bytes)
    steps = op.Div(op.Shape(tiles, start=1), step)
    codes_end = op.Mul(steps, code_bytes)
    low_end = op.Add(codes_end, op.Mul(steps, sixteen))
    head = op.Concat(strips, steps, axis=0)
    stored = op.Reshape(op.Slice(tiles, zero, codes_end, one), op.Concat(head, last, axis=0))
    if op.Equal(op.Constant(value_int=bits), op.Constant(value_int=8)):
        codes = op.Identity(stored)
    else:
        low_nibbles = op.BitwiseAnd(stored, op.Constant(value=NIBBLE))
        high_nibbles = op.BitShift(stored, op.Constant(value=FOUR), direction="RIGHT")
        codes = op.Concat(low_nibbles, high_nibbles, axis=2)
    positions = op.Concat(head, sixteen, four, axis=0)
    low = op.Reshape(op.Slice(tiles, codes_end, low_end, one), op.Concat(head, one, sixteen, axis=0))
    pairs = op.BitwiseAnd(
        op.BitShift(low, op.Constant(value=PAIR_SHIFTS), direction="RIGHT"), op.Constant(value=PAIR)
    )
    first = op.Reshape(pairs, positions)
    # Where there are no third bits zeros stand for them: a branch would be folded, taken or not, by ONNX Runtime 1.23,
    # which then fails.
    none = op.Expand(op.Constant(value=NO_BITS), op.Concat(strips, op.Mul(steps, eight), axis=0))
    stored_bits = op.Concat(op.Slice(tiles, low_end, op.Shape(tiles, start=1), one), none, axis=1)
    high = op.Reshape(
        op.Slice(stored_bits, zero, op.Mul(steps, eight), one), op.Concat(head, one, eight, axis=0)
    )
    third = op.BitwiseAnd(
        op.BitShift(high, op.Constant(value=ROW_SHIFTS), direction="RIGHT"), op.Constant(value=BIT)
    )
    raised = op.BitShift(op.Reshape(third, positions), op.Constant(value=TWO), direction="LEFT")
    indices = op.BitwiseOr(first, raised)
    # Slots of the second `of` inputs of a step, and of those after them.
    base = op.Mul(op.Div(op.Constant(value=SLOTS), some), every)
    places = op.Add(op.Cast(indices, to=7), base)
    inputs = op.Div(op.Mul(every, four), some)
    empty = op.Expand(op.Gather(op.Constant(value=OFFSETS), width), op.Concat(head, sixteen, inputs, axis=0))
    dense = op.ScatterElements(empty, places, op.Reshape(codes, positions), axis=3)
    ordered = op.Transpose(dense, perm=[1, 3, 0, 2])
    return op.Reshape(ordered, op.Concat(op.Mul(steps, inputs), op.Mul(strips, sixteen), axis=0))


@script(ai_bqc)
def SparseDequantize(codes, scales):
    """Codes int8 [N, K], 0 where nothing is kept, times the scales [N] of their rows, float [N, K]."""
    return op.Mul(op.Cast(codes, to=1), op.Unsqueeze(scales, op.Constant(value_ints=[1])))


@script(ai_bqc)
def SparseDequantizeTiles(
    tiles,
    scales,
    kept: int = 2,
    of: int = 4,
    bits: int = 8,
    group: int = 0,
    rows: int = 768,
    columns: int = 768,
    layout: str = "n16s4",
):
    """The packed weight as a float matrix [K, N] (rows is N, columns is K)."""
    one = op.Constant(value_ints=[1])
    first = op.Constant(value_ints=[0])
    length = op.Reshape(op.Constant(value_int=columns), one)
    outputs = op.Reshape(op.Constant(value_int=rows), one)
    group1 = op.Reshape(op.Constant(value_int=group), one)
    owner, span, per_group, size = BlockOwner(length, length, group1)
    w = UnpackSparseTiles(tiles, kept=kept, of=of, bits=bits)
    groups = op.Div(length, span)
    split = op.Concat(groups, op.Div(op.Shape(w, end=1), groups), op.Shape(w, start=1), axis=0)
    real = op.Slice(op.Reshape(w, split), first, span, one)
    matrix = op.Reshape(real, op.Concat(length, op.Shape(w, start=1), axis=0))
    codes = op.Cast(op.Slice(matrix, first, outputs, one), to=1)
    zero = op.Cast(op.Gather(op.Constant(value=OFFSETS), op.Constant(value_int=bits)), to=1)
    return op.Mul(op.Sub(codes, zero), op.Slice(scales, first, outputs))


@script(ai_bqc)
def SparseLinear(
    codes,
    exponents,
    tiles,
    scales,
    bias,
    kept: int = 2,
    of: int = 4,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16s4",
):
    """x W^T + bias, float [..., N], of an N:M-sparse weight; blocks of K in ascending order."""
    block1 = op.Reshape(op.Constant(value_int=block), op.Constant(value_ints=[1]))
    group1 = op.Reshape(op.Constant(value_int=group), op.Constant(value_ints=[1]))
    owner, span, per_group, size = BlockOwner(op.Shape(codes, start=-1), block1, group1)
    x, padded_span = PadGroups(codes, span)
    w = UnpackSparseTiles(tiles, kept=kept, of=of, bits=bits)
    x_scale = PowerOfTwo(exponents)
    x_zero = op.Constant(value=ZERO_POINT)
    w_zero = op.Gather(op.Constant(value=OFFSETS), op.Constant(value_int=bits))
    last = op.Constant(value_ints=[-1])
    first = op.Constant(value_ints=[0])
    lead = op.Slice(op.Shape(codes), first, last)
    acc = op.Expand(op.Constant(value_float=0.0), op.Concat(lead, op.Shape(w, start=1), axis=0))
    count = op.Shape(exponents, start=-1)
    step = op.Constant(value_ints=[1])
    i = op.Constant(value_ints=[0])
    going = op.Squeeze(op.Less(i, count))
    while going:
        base = op.Mul(op.Div(i, per_group), padded_span)
        start = op.Add(base, op.Mul(op.Mod(i, per_group), size))
        end = op.Min(op.Add(start, size), op.Add(base, padded_span))
        x_part = op.Slice(x, start, end, last)
        w_part = op.Slice(w, start, end, first)
        dot = op.Cast(op.MatMulInteger(x_part, w_part, x_zero, w_zero), to=1)
        following = op.Add(i, step)
        term = op.Mul(op.Mul(dot, scales), op.Slice(x_scale, i, following, last))
        acc = op.Add(acc, term)
        i = op.Identity(following)
        going = op.Squeeze(op.Less(following, count))
    y = op.Slice(acc, first, op.Shape(bias), last)
    return Finite(op.Add(y, op.Cast(bias, to=1)))


@script(ai_bqc)
def SparseLinearQuantize(
    codes,
    exponents,
    tiles,
    scales,
    bias,
    kept: int = 2,
    of: int = 4,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16s4",
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`SparseLinear`, then `BlockQuantize`."""
    y = SparseLinear(
        codes,
        exponents,
        tiles,
        scales,
        bias,
        kept=kept,
        of=of,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    out, out_exponents = BlockQuantize(y, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SparseLinearGelu(
    codes,
    exponents,
    tiles,
    scales,
    bias,
    kept: int = 2,
    of: int = 4,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16s4",
    approximate: int = 0,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`SparseLinear`, `Gelu`, then `BlockQuantize`."""
    y = SparseLinear(
        codes,
        exponents,
        tiles,
        scales,
        bias,
        kept=kept,
        of=of,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    g = Gelu(y, approximate=approximate)
    out, out_exponents = BlockQuantize(g, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SparseLinearRelu(
    codes,
    exponents,
    tiles,
    scales,
    bias,
    kept: int = 2,
    of: int = 4,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16s4",
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`SparseLinear`, ReLU, then `BlockQuantize`."""
    y = SparseLinear(
        codes,
        exponents,
        tiles,
        scales,
        bias,
        kept=kept,
        of=of,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    out, out_exponents = BlockQuantize(op.Relu(y), bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SparseLinearAddNorm(
    codes,
    exponents,
    tiles,
    scales,
    bias,
    residual,
    residual_exponents,
    gamma,
    beta,
    kept: int = 2,
    of: int = 4,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16s4",
    residual_block: int = 64,
    residual_group: int = 0,
    epsilon: float = 1e-12,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`LayerNorm` of `SparseLinear` plus the dequantised residual, then `BlockQuantize`."""
    y = SparseLinear(
        codes,
        exponents,
        tiles,
        scales,
        bias,
        kept=kept,
        of=of,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    skip = BlockDequantize(residual, residual_exponents, block=residual_block, group=residual_group)
    normed = LayerNorm(op.Add(y, skip), gamma, beta, epsilon=epsilon)
    out, out_exponents = BlockQuantize(normed, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SparseLinearQuantizeValues(
    codes,
    exponents,
    tiles,
    scales,
    bias,
    mask,
    kept: int = 2,
    of: int = 4,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16s4",
    heads: int = 12,
    out_bits: int = 8,
    out_block: int = 64,
):
    """`SparseLinear`, then `BlockQuantizeValues`."""
    y = SparseLinear(
        codes,
        exponents,
        tiles,
        scales,
        bias,
        kept=kept,
        of=of,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    out, out_exponents = BlockQuantizeValues(y, mask, heads=heads, bits=out_bits, block=out_block)
    return out, out_exponents

"""Weights made of signs: linears, their fused forms, and lookups."""

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
from bqc.ops.bodies.embedding import BlockGather
from bqc.ops.bodies.linear import ZERO_POINT, BlockQuantizeValues, PadGroups

EIGHT_SHIFTS = numpy_helper.from_array(np.arange(8, dtype=np.uint8))
ROW_SHIFTS = numpy_helper.from_array(np.arange(8, dtype=np.uint8).reshape(8, 1))
BIT = numpy_helper.from_array(np.array(1, np.uint8))
SIGN_ZERO_POINT = numpy_helper.from_array(np.array(1, np.uint8))


@script(ai_bqc)
def UnpackSignTiles(planes):
    """Tiles of layout n16k16, uint8 [P, strips, tiles, 2, 16], to uint8 [P, K', ceil16(N)] of 0 for -1 and 2 for 1."""
    byte = op.Unsqueeze(planes, op.Constant(value_ints=[-1]))
    bits = op.BitwiseAnd(
        op.BitShift(byte, op.Constant(value=EIGHT_SHIFTS), direction="RIGHT"), op.Constant(value=BIT)
    )
    shape = op.Shape(planes)
    halves = op.Concat(shape, op.Constant(value_ints=[2, 4]), axis=0)
    # plane, strip, tile, h, output, half, input -> plane, tile, half, h, input, strip, output
    ordered = op.Transpose(op.Reshape(bits, halves), perm=[0, 2, 5, 3, 6, 1, 4])
    sixteen = op.Constant(value_ints=[16])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    inputs = op.Mul(op.Slice(shape, two, op.Constant(value_ints=[3])), sixteen)
    outputs = op.Mul(op.Slice(shape, one, two), sixteen)
    count = op.Shape(planes, end=1)
    matrix = op.Reshape(ordered, op.Concat(count, inputs, outputs, axis=0))
    return op.BitShift(matrix, op.Constant(value=BIT), direction="LEFT")


@script(ai_bqc)
def SumPlanes(scaled):
    """Planes [P, ...] added up; a zero is +0, as sums of one differ about that between builds."""
    y = op.ReduceSum(scaled, op.Constant(value_ints=[0]), keepdims=0)
    zero = op.Constant(value_float=0.0)
    return op.Where(op.Equal(y, zero), zero, y)


@script(ai_bqc)
def SignDequantize(signs, scales):
    """Planes of signs int8 [P, N, K] times their scales [P, N or 1], added up, float [N, K]; scales may be fp16."""
    wide = op.Cast(scales, to=1)
    scaled = op.Mul(op.Cast(signs, to=1), op.Unsqueeze(wide, op.Constant(value_ints=[2])))
    return SumPlanes(scaled)


@script(ai_bqc)
def SignDequantizeTiles(
    planes, scales, group: int = 0, rows: int = 768, columns: int = 768, layout: str = "n16k16"
):
    """The packed weight as a float matrix [K, N] (rows is N, columns is K)."""
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    first = op.Constant(value_ints=[0])
    length = op.Reshape(op.Constant(value_int=columns), one)
    outputs = op.Reshape(op.Constant(value_int=rows), one)
    group1 = op.Reshape(op.Constant(value_int=group), one)
    owner, span, per_group, size = BlockOwner(length, length, group1)
    w = UnpackSignTiles(planes)
    groups = op.Div(length, span)
    count = op.Shape(w, end=1)
    width = op.Shape(w, start=2)
    split = op.Concat(count, groups, op.Div(op.Shape(w, start=1, end=2), groups), width, axis=0)
    kept = op.Slice(op.Reshape(w, split), first, span, two)
    matrix = op.Reshape(kept, op.Concat(count, length, width, axis=0))
    doubled = op.Cast(op.Slice(matrix, first, outputs, two), to=1)
    signs = op.Sub(doubled, op.Constant(value_float=1.0))
    kept_scales = op.Cast(op.Slice(scales, first, outputs, one), to=1)
    scaled = op.Mul(signs, op.Unsqueeze(kept_scales, one))
    return SumPlanes(scaled)


@script(ai_bqc)
def SignLinear(
    codes, exponents, planes, scales, bias, block: int = 64, group: int = 0, layout: str = "n16k16"
):
    """x W^T + bias, float [..., N], of a weight made of signs; blocks of K in ascending order."""
    block1 = op.Reshape(op.Constant(value_int=block), op.Constant(value_ints=[1]))
    group1 = op.Reshape(op.Constant(value_int=group), op.Constant(value_ints=[1]))
    owner, span, per_group, size = BlockOwner(op.Shape(codes, start=-1), block1, group1)
    padded, padded_span = PadGroups(codes, span)
    last = op.Constant(value_ints=[-1])
    first = op.Constant(value_ints=[0])
    step = op.Constant(value_ints=[1])
    lead = op.Slice(op.Shape(codes), first, last)
    length = op.Shape(padded, start=-1)
    rows = op.Div(op.Reshape(op.Size(codes), step), op.Shape(codes, start=-1))
    x = op.Reshape(padded, op.Concat(step, rows, length, axis=0), allowzero=1)
    w = UnpackSignTiles(planes)
    outputs = op.Shape(w, start=2)
    count = op.Shape(exponents, start=-1)
    x_scale = op.Reshape(PowerOfTwo(exponents), op.Concat(rows, count, axis=0), allowzero=1)
    w_scale = op.Unsqueeze(op.Cast(scales, to=1), step)
    acc = op.Expand(op.Constant(value_float=0.0), op.Concat(rows, outputs, axis=0))
    i = op.Constant(value_ints=[0])
    going = op.Squeeze(op.Less(i, count))
    while going:
        base = op.Mul(op.Div(i, per_group), padded_span)
        start = op.Add(base, op.Mul(op.Mod(i, per_group), size))
        end = op.Min(op.Add(start, size), op.Add(base, padded_span))
        x_part = op.Slice(x, start, end, last)
        w_part = op.Slice(w, start, end, step)
        dots = op.MatMulInteger(
            x_part, w_part, op.Constant(value=ZERO_POINT), op.Constant(value=SIGN_ZERO_POINT)
        )
        planes_scaled = op.Mul(op.Cast(dots, to=1), w_scale)
        following = op.Add(i, step)
        term = op.Mul(op.ReduceSum(planes_scaled, first, keepdims=0), op.Slice(x_scale, i, following, last))
        acc = op.Add(acc, term)
        i = op.Identity(following)
        going = op.Squeeze(op.Less(following, count))
    kept = op.Slice(acc, first, op.Shape(bias), last)
    y = op.Reshape(kept, op.Concat(lead, op.Shape(bias), axis=0), allowzero=1)
    return Finite(op.Add(y, op.Cast(bias, to=1)))


@script(ai_bqc)
def SignLinearQuantize(
    codes,
    exponents,
    planes,
    scales,
    bias,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k16",
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`SignLinear`, then `BlockQuantize`."""
    y = SignLinear(codes, exponents, planes, scales, bias, block=block, group=group, layout=layout)
    out, out_exponents = BlockQuantize(y, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SignLinearGelu(
    codes,
    exponents,
    planes,
    scales,
    bias,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k16",
    approximate: int = 0,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`SignLinear`, `Gelu`, then `BlockQuantize`."""
    y = SignLinear(codes, exponents, planes, scales, bias, block=block, group=group, layout=layout)
    g = Gelu(y, approximate=approximate)
    out, out_exponents = BlockQuantize(g, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SignLinearRelu(
    codes,
    exponents,
    planes,
    scales,
    bias,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k16",
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`SignLinear`, ReLU, then `BlockQuantize`."""
    y = SignLinear(codes, exponents, planes, scales, bias, block=block, group=group, layout=layout)
    out, out_exponents = BlockQuantize(op.Relu(y), bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SignLinearAddNorm(
    codes,
    exponents,
    planes,
    scales,
    bias,
    residual,
    residual_exponents,
    gamma,
    beta,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k16",
    residual_block: int = 64,
    residual_group: int = 0,
    epsilon: float = 1e-12,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`LayerNorm` of `SignLinear` plus the dequantised residual, then `BlockQuantize`."""
    y = SignLinear(codes, exponents, planes, scales, bias, block=block, group=group, layout=layout)
    skip = BlockDequantize(residual, residual_exponents, block=residual_block, group=residual_group)
    normed = LayerNorm(op.Add(y, skip), gamma, beta, epsilon=epsilon)
    out, out_exponents = BlockQuantize(normed, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def SignLinearQuantizeValues(
    codes,
    exponents,
    planes,
    scales,
    bias,
    mask,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k16",
    heads: int = 12,
    out_bits: int = 8,
    out_block: int = 64,
):
    """`SignLinear`, then `BlockQuantizeValues`."""
    y = SignLinear(codes, exponents, planes, scales, bias, block=block, group=group, layout=layout)
    out, out_exponents = BlockQuantizeValues(y, mask, heads=heads, bits=out_bits, block=out_block)
    return out, out_exponents


@script(ai_bqc)
def SignGather(ids, rows, scales, columns: int = 768, layout: str = "row"):
    """Rows of a table made of signs, float [..., columns]."""
    one = op.Constant(value_ints=[1])
    first = op.Constant(value_ints=[0])
    last = op.Constant(value_ints=[-1])
    flat = op.Reshape(ids, op.Reshape(op.Size(ids), one), allowzero=1)
    taken = op.Unsqueeze(op.Gather(rows, flat, axis=1), op.Constant(value_ints=[2]))
    bits = op.BitwiseAnd(
        op.BitShift(taken, op.Constant(value=ROW_SHIFTS), direction="RIGHT"), op.Constant(value=BIT)
    )
    eight = op.Constant(value_ints=[8])
    length = op.Mul(op.Shape(rows, start=2), eight)
    shape = op.Concat(op.Shape(rows, end=1), op.Shape(flat), length, axis=0)
    width = op.Reshape(op.Constant(value_int=columns), one)
    kept = op.Slice(op.Reshape(bits, shape, allowzero=1), first, width, last)
    two = op.Constant(value_float=2.0)
    signs = op.Sub(op.Mul(op.Cast(kept, to=1), two), op.Constant(value_float=1.0))
    # One scale for all rows is that of any of them.
    every = op.Expand(scales, op.Shape(rows, end=2))
    taken_scales = op.Cast(op.Gather(every, flat, axis=1), to=1)
    scale = op.Unsqueeze(taken_scales, op.Constant(value_ints=[2]))
    y = SumPlanes(op.Mul(signs, scale))
    return op.Reshape(y, op.Concat(op.Shape(ids), width, axis=0), allowzero=1)


@script(ai_bqc)
def SignEmbeddingLayerNorm(
    ids,
    type_ids,
    position_ids,
    word,
    word_scales,
    kind,
    kind_exponents,
    position,
    position_exponents,
    gamma,
    beta,
    columns: int = 768,
    type_bits: int = 8,
    position_bits: int = 8,
    block: int = 64,
    layout: str = "row",
    epsilon: float = 1e-12,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`EmbeddingLayerNorm` of a word table made of signs."""
    w = SignGather(ids, word, word_scales, columns=columns, layout=layout)
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

"""MatMul of quantised activations with packed weights, and its fused forms."""

import numpy as np
from onnx import numpy_helper
from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops.bodies.elementary import (
    BlockDequantize,
    BlockOwner,
    BlockQuantize,
    ChooseExponent,
    EncodeBlocks,
    Finite,
    Gelu,
    LayerNorm,
    PowerOfTwo,
    Sanitize,
    SplitBlocks,
    ai_bqc,
)

OFFSETS = numpy_helper.from_array(np.array([0, 0, 2, 4, 8, 16, 32, 64, 128], np.uint8))
NIBBLE = numpy_helper.from_array(np.array(15, np.uint8))
PAIR = numpy_helper.from_array(np.array(3, np.uint8))
SINGLE = numpy_helper.from_array(np.array(1, np.uint8))
SHIFTS = numpy_helper.from_array(np.array([0, 2, 4, 6], np.uint8).reshape(4, 1, 1))
SINGLE_SHIFTS = numpy_helper.from_array(np.arange(8, dtype=np.uint8).reshape(8, 1, 1))
TWO = numpy_helper.from_array(np.array(2, np.uint8))
FOUR = numpy_helper.from_array(np.array(4, np.uint8))
ZERO_POINT = numpy_helper.from_array(np.array(128, np.uint8))


@script(ai_bqc)
def UnpackNibbles(low):
    """uint8 [n, t, 16, 4] to [n, 2 t, 16, 4], low nibbles first."""
    first = op.BitwiseAnd(low, op.Constant(value=NIBBLE))
    second = op.BitShift(low, op.Constant(value=FOUR), direction="RIGHT")
    axis = op.Constant(value_ints=[2])
    both = op.Concat(op.Unsqueeze(first, axis), op.Unsqueeze(second, axis), axis=2)
    shape = op.Shape(low)
    tiles = op.Mul(op.Slice(shape, op.Constant(value_ints=[1]), axis), op.Constant(value_ints=[2]))
    return op.Reshape(both, op.Concat(op.Shape(low, end=1), tiles, op.Shape(low, start=2), axis=0))


@script(ai_bqc)
def UnpackPairs(packed):
    """uint8 [n, t, 16, 4] to [n, 4 t, 16, 4], lowest bits first."""
    axis = op.Constant(value_ints=[2])
    shifted = op.BitShift(op.Unsqueeze(packed, axis), op.Constant(value=SHIFTS), direction="RIGHT")
    pairs = op.BitwiseAnd(shifted, op.Constant(value=PAIR))
    shape = op.Shape(packed)
    tiles = op.Mul(op.Slice(shape, op.Constant(value_ints=[1]), axis), op.Constant(value_ints=[4]))
    return op.Reshape(pairs, op.Concat(op.Shape(packed, end=1), tiles, op.Shape(packed, start=2), axis=0))


@script(ai_bqc)
def UnpackSingles(packed):
    """uint8 [n, t, 16, 4] to single bits [n, 8 t, 16, 4], the lowest first."""
    axis = op.Constant(value_ints=[2])
    shifted = op.BitShift(op.Unsqueeze(packed, axis), op.Constant(value=SINGLE_SHIFTS), direction="RIGHT")
    singles = op.BitwiseAnd(shifted, op.Constant(value=SINGLE))
    shape = op.Shape(packed)
    tiles = op.Mul(op.Slice(shape, op.Constant(value_ints=[1]), axis), op.Constant(value_ints=[8]))
    return op.Reshape(singles, op.Concat(op.Shape(packed, end=1), tiles, op.Shape(packed, start=2), axis=0))


@script(ai_bqc)
def UnpackThreeBits(weight):
    """Tiles of 3-bit codes, uint8 [n, ceil(3 K' / 32), lanes, 4], to unsigned codes uint8 [n, K' / 4, lanes, 4]."""
    count = op.Shape(weight, start=1, end=2)
    # Rounded down: the last tile of single bits may be half used.
    pair_tiles = op.Div(op.Mul(count, op.Constant(value_ints=[2])), op.Constant(value_ints=[3]))
    first = op.Constant(value_ints=[0])
    axis = op.Constant(value_ints=[1])
    pairs = UnpackPairs(op.Slice(weight, first, pair_tiles, axis))
    singles = UnpackSingles(op.Slice(weight, pair_tiles, count, axis))
    used = op.Slice(singles, first, op.Shape(pairs, start=1, end=2), axis)
    return op.BitwiseOr(pairs, op.BitShift(used, op.Constant(value=TWO), direction="LEFT"))


@script(ai_bqc)
def UnpackTileCodes(weight, bits: int = 8):
    """Tiles of layout n16k4, uint8 [n, ceil(K' * bits/32), lanes, 4], to unsigned codes uint8 [n, K' / 4, lanes, 4]."""
    width = op.Constant(value_int=bits)
    if op.Equal(width, op.Constant(value_int=8)):
        tiles = op.Identity(weight)
    else:
        if op.Equal(width, op.Constant(value_int=2)):
            tiles = UnpackPairs(weight)
        else:
            if op.Equal(width, op.Constant(value_int=3)):
                tiles = UnpackThreeBits(weight)
            else:
                steps = op.Shape(weight, start=1, end=2)
                low_steps = op.Div(op.Mul(steps, op.Constant(value_ints=[4])), width)
                axis = op.Constant(value_ints=[1])
                low = UnpackNibbles(op.Slice(weight, op.Constant(value_ints=[0]), low_steps, axis))
                if op.Equal(width, op.Constant(value_int=4)):
                    tiles = op.Identity(low)
                else:
                    pairs = UnpackPairs(op.Slice(weight, low_steps, steps, axis))
                    raised = op.BitShift(pairs, op.Constant(value=FOUR), direction="LEFT")
                    # ONNX Runtime 1.20 folds branches that are not taken, and fails where operands do not
                    # broadcast; a Reshape that cannot be done it leaves alone.
                    tiles = op.BitwiseOr(low, op.Reshape(raised, op.Shape(low)))
    return tiles


@script(ai_bqc)
def UnpackTiles(weight, bits: int = 8):
    """Tiles of layout n16k4 to unsigned codes uint8 [K', ceil16(N)]."""
    tiles = UnpackTileCodes(weight, bits=bits)
    matrix = op.Transpose(tiles, perm=[1, 3, 0, 2])
    shape = op.Shape(tiles)
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    inputs = op.Mul(op.Slice(shape, one, two), op.Constant(value_ints=[4]))
    outputs = op.Mul(op.Slice(shape, zero, one), op.Constant(value_ints=[16]))
    return op.Reshape(matrix, op.Concat(inputs, outputs, axis=0))


@script(ai_bqc)
def PadGroups(codes, span):
    """int8 codes [..., K] to uint8 codes + 128 [..., K'], groups padded to multiples of 16."""
    lead = op.Slice(op.Shape(codes), op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]))
    groups = op.Div(op.Shape(codes, start=-1), span)
    x = op.Add(op.Cast(codes, to=6), op.Cast(op.Constant(value_int=128), to=6))
    grouped = op.Reshape(op.Cast(x, to=2), op.Concat(lead, groups, span, axis=0), allowzero=1)
    sixteen = op.Constant(value_ints=[16])
    extra = op.Mod(op.Sub(sixteen, op.Mod(span, sixteen)), sixteen)
    pads = op.Concat(op.Constant(value_ints=[0]), extra, axis=0)
    padded = op.Pad(grouped, pads, op.Constant(value=ZERO_POINT), op.Constant(value_ints=[-1]))
    length = op.Mul(groups, op.Add(span, extra))
    return op.Reshape(padded, op.Concat(lead, length, axis=0), allowzero=1), op.Add(span, extra)


@script(ai_bqc)
def BlockLinear(
    codes,
    exponents,
    weight,
    weight_exponents,
    bias,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k4",
):
    """x W^T + bias, float [..., N]; blocks of K in ascending order."""
    block1 = op.Reshape(op.Constant(value_int=block), op.Constant(value_ints=[1]))
    group1 = op.Reshape(op.Constant(value_int=group), op.Constant(value_ints=[1]))
    owner, span, per_group, size = BlockOwner(op.Shape(codes, start=-1), block1, group1)
    x, padded_span = PadGroups(codes, span)
    w = UnpackTiles(weight, bits=bits)
    x_scale = PowerOfTwo(exponents)
    w_scale = PowerOfTwo(weight_exponents)
    x_zero = op.Constant(value=ZERO_POINT)
    w_zero = op.Gather(op.Constant(value=OFFSETS), op.Constant(value_int=bits))
    last = op.Constant(value_ints=[-1])
    first = op.Constant(value_ints=[0])
    lead = op.Slice(op.Shape(codes), first, last)
    acc = op.Expand(
        op.Constant(value_float=0.0), op.Concat(lead, op.Shape(weight_exponents, start=1), axis=0)
    )
    count = op.Shape(weight_exponents, end=1)
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
        term = op.Mul(
            op.Mul(dot, op.Slice(w_scale, i, following, first)), op.Slice(x_scale, i, following, last)
        )
        acc = op.Add(acc, term)
        i = op.Identity(following)
        going = op.Squeeze(op.Less(following, count))
    y = op.Slice(acc, first, op.Shape(bias), last)
    return Finite(op.Add(y, op.Cast(bias, to=1)))


@script(ai_bqc)
def BlockDequantizeTiles(
    weight,
    weight_exponents,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    rows: int = 768,
    columns: int = 768,
    layout: str = "n16k4",
):
    """The packed weight as a float matrix [K, N] (rows is N, columns is K)."""
    one = op.Constant(value_ints=[1])
    first = op.Constant(value_ints=[0])
    length = op.Reshape(op.Constant(value_int=columns), one)
    outputs = op.Reshape(op.Constant(value_int=rows), one)
    block1 = op.Reshape(op.Constant(value_int=block), one)
    group1 = op.Reshape(op.Constant(value_int=group), one)
    owner, span, per_group, size = BlockOwner(length, block1, group1)
    w = UnpackTiles(weight, bits=bits)
    groups = op.Div(length, span)
    split = op.Concat(groups, op.Div(op.Shape(w, end=1), groups), op.Shape(w, start=1), axis=0)
    kept = op.Slice(op.Reshape(w, split), first, span, one)
    matrix = op.Reshape(kept, op.Concat(length, op.Shape(w, start=1), axis=0))
    codes = op.Cast(op.Slice(matrix, first, outputs, one), to=1)
    zero = op.Cast(op.Gather(op.Constant(value=OFFSETS), op.Constant(value_int=bits)), to=1)
    scale = op.Gather(op.Slice(PowerOfTwo(weight_exponents), first, outputs, one), owner, axis=0)
    return op.Mul(op.Sub(codes, zero), scale)


@script(ai_bqc)
def BlockLinearQuantize(
    codes,
    exponents,
    weight,
    weight_exponents,
    bias,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k4",
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`BlockLinear`, then `BlockQuantize`."""
    y = BlockLinear(
        codes,
        exponents,
        weight,
        weight_exponents,
        bias,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    out, out_exponents = BlockQuantize(y, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def BlockLinearGelu(
    codes,
    exponents,
    weight,
    weight_exponents,
    bias,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k4",
    approximate: int = 0,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`BlockLinear`, `Gelu`, then `BlockQuantize`."""
    y = BlockLinear(
        codes,
        exponents,
        weight,
        weight_exponents,
        bias,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    g = Gelu(y, approximate=approximate)
    out, out_exponents = BlockQuantize(g, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def BlockLinearRelu(
    codes,
    exponents,
    weight,
    weight_exponents,
    bias,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k4",
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`BlockLinear`, ReLU, then `BlockQuantize`."""
    y = BlockLinear(
        codes,
        exponents,
        weight,
        weight_exponents,
        bias,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    out, out_exponents = BlockQuantize(op.Relu(y), bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents


@script(ai_bqc)
def BlockLinearAddNorm(
    codes,
    exponents,
    weight,
    weight_exponents,
    bias,
    residual,
    residual_exponents,
    gamma,
    beta,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k4",
    residual_block: int = 64,
    residual_group: int = 0,
    epsilon: float = 1e-12,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`LayerNorm` of `BlockLinear` plus the dequantised residual, then `BlockQuantize`."""
    y = BlockLinear(
        codes,
        exponents,
        weight,
        weight_exponents,
        bias,
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
def EffectiveMask(mask):
    """Keys kept [B, S]: mask != 0, or all where nothing is; and whether anything is, [B, 1]."""
    keep = op.Cast(mask, to=9)
    alive = op.Greater(
        op.ReduceSum(op.Cast(keep, to=7), op.Constant(value_ints=[-1]), keepdims=1), op.Constant(value_int=0)
    )
    return op.Or(keep, op.Not(alive)), alive


@script(ai_bqc)
def BlockQuantizeValues(x, mask, heads: int = 12, bits: int = 8, block: int = 64):
    """Codes int8 [B, S, H] of x, exponents int8 [B, n] over the tokens that the mask keeps."""
    clean = Sanitize(x)
    length = op.Shape(x, start=-1)
    one = op.Constant(value_ints=[1])
    bits1 = op.Reshape(op.Constant(value_int=bits), one)
    block1 = op.Reshape(op.Constant(value_int=block), one)
    group1 = op.Div(length, op.Reshape(op.Constant(value_int=heads), one))
    owner, span, per_group, size = BlockOwner(length, block1, group1)
    keep, alive = EffectiveMask(mask)
    kept = op.Where(
        op.Unsqueeze(keep, op.Constant(value_ints=[2])), op.Abs(clean), op.Constant(value_float=0.0)
    )
    columns = op.ReduceMax(kept, one, keepdims=1)
    batch = op.Shape(x, end=1)
    flat = op.Reshape(columns, op.Concat(batch, length, axis=0), allowzero=1)
    blocks = SplitBlocks(flat, span, per_group, size)
    largest = op.ReduceMax(blocks, op.Constant(value_ints=[-1]), keepdims=1)
    count = op.Mul(op.Div(length, span), per_group)
    exponent = ChooseExponent(op.Reshape(largest, op.Concat(batch, count, axis=0), allowzero=1), bits1)
    spread = op.Unsqueeze(op.Gather(exponent, owner, axis=-1), one)
    return EncodeBlocks(clean, spread, bits1), op.Cast(exponent, to=3)


@script(ai_bqc)
def BlockLinearQuantizeValues(
    codes,
    exponents,
    weight,
    weight_exponents,
    bias,
    mask,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    layout: str = "n16k4",
    heads: int = 12,
    out_bits: int = 8,
    out_block: int = 64,
):
    """`BlockLinear`, then `BlockQuantizeValues`."""
    y = BlockLinear(
        codes,
        exponents,
        weight,
        weight_exponents,
        bias,
        bits=bits,
        block=block,
        group=group,
        layout=layout,
    )
    out, out_exponents = BlockQuantizeValues(y, mask, heads=heads, bits=out_bits, block=out_block)
    return out, out_exponents

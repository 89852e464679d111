"""Signs times signs: between float and bits, the linear, its fused forms."""

import numpy as np
from onnx import numpy_helper
from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops.bodies.elementary import BlockDequantize, BlockQuantize, Finite, LayerNorm, ai_bqc
from bqc.ops.bodies.signs import BIT, EIGHT_SHIFTS, SIGN_ZERO_POINT

PLACES = numpy_helper.from_array(2 ** np.arange(8, dtype=np.int32))
CLEAR = numpy_helper.from_array(np.array(0, np.int32))


@script(ai_bqc)
def PackBits(positive):
    """bool [..., K] as uint8 [..., ceil8(K)/8], the first element in the lowest bit."""
    eight = op.Constant(value_ints=[8])
    length = op.Shape(positive, start=-1)
    extra = op.Mod(op.Sub(eight, op.Mod(length, eight)), eight)
    last = op.Constant(value_ints=[-1])
    first = op.Constant(value_ints=[0])
    pads = op.Concat(first, extra, axis=0)
    padded = op.Pad(op.Cast(positive, to=6), pads, op.Constant(value=CLEAR), last)
    count = op.Div(op.Add(length, extra), eight)
    lead = op.Slice(op.Shape(positive), first, last)
    split = op.Reshape(padded, op.Concat(lead, count, eight, axis=0), allowzero=1)
    bytes_ = op.ReduceSum(op.Mul(split, op.Constant(value=PLACES)), last, keepdims=0)
    return op.Cast(bytes_, to=2)


@script(ai_bqc)
def UnpackBits(bits, columns):
    """uint8 [..., ceil8(K)/8] as uint8 [..., columns] of 0 for -1 and 2 for 1; columns is int64 [1]."""
    last = op.Constant(value_ints=[-1])
    first = op.Constant(value_ints=[0])
    byte = op.Unsqueeze(bits, last)
    each = op.BitwiseAnd(
        op.BitShift(byte, op.Constant(value=EIGHT_SHIFTS), direction="RIGHT"), op.Constant(value=BIT)
    )
    length = op.Mul(op.Shape(bits, start=-1), op.Constant(value_ints=[8]))
    lead = op.Slice(op.Shape(bits), first, last)
    row = op.Reshape(each, op.Concat(lead, length, axis=0), allowzero=1)
    return op.BitShift(op.Slice(row, first, columns, last), op.Constant(value=BIT), direction="LEFT")


@script(ai_bqc)
def UnpackBitTiles(tiles, columns):
    """Tiles of layout n16k64, uint8 [strips, tiles, 8, 16], to uint8 [columns, ceil16(N)] of 0 for -1 and 2 for 1."""
    # strip, tile, byte, output -> tile, byte, strip, output
    ordered = op.Transpose(tiles, perm=[1, 2, 0, 3])
    shape = op.Shape(ordered)
    zero = op.Constant(value_ints=[0])
    two = op.Constant(value_ints=[2])
    sixteen = op.Constant(value_ints=[16])
    bytes_ = op.Mul(op.Slice(shape, zero, op.Constant(value_ints=[1])), op.Constant(value_ints=[8]))
    outputs = op.Mul(op.Slice(shape, two, op.Constant(value_ints=[3])), sixteen)
    matrix = op.Transpose(op.Reshape(ordered, op.Concat(bytes_, outputs, axis=0)), perm=[1, 0])
    return op.Transpose(UnpackBits(matrix, columns), perm=[1, 0])


@script(ai_bqc)
def SignsOf(doubled):
    """uint8 of 0 and 2 as float -1 and 1."""
    return op.Sub(op.Cast(doubled, to=1), op.Constant(value_float=1.0))


@script(ai_bqc)
def Binarize(x):
    """Bits of the signs of x float [..., K], uint8 [..., ceil8(K)/8]: set above 0, clear for 0 and NaN and beyond K."""
    return PackBits(op.Greater(x, op.Constant(value_float=0.0)))


@script(ai_bqc)
def BinarizeCodes(codes):
    """`Binarize` of dequantised block codes int8 [..., K], whatever their exponents."""
    return PackBits(op.Greater(op.Cast(codes, to=6), op.Constant(value=CLEAR)))


@script(ai_bqc)
def BinaryDequantize(bits, columns: int = 768):
    """Bits as float -1 and 1, [..., columns]."""
    length = op.Reshape(op.Constant(value_int=columns), op.Constant(value_ints=[1]))
    return SignsOf(UnpackBits(bits, length))


@script(ai_bqc)
def XnorDequantize(signs, scales):
    """Signs int8 [N, K] times their scales [N or 1], float [N, K]."""
    return op.Mul(op.Cast(signs, to=1), op.Unsqueeze(scales, op.Constant(value_ints=[1])))


@script(ai_bqc)
def XnorDequantizeTiles(tiles, scales, rows: int = 768, columns: int = 768, layout: str = "n16k64"):
    """The packed weight as a float matrix [K, N] (rows is N, columns is K)."""
    one = op.Constant(value_ints=[1])
    first = op.Constant(value_ints=[0])
    length = op.Reshape(op.Constant(value_int=columns), one)
    outputs = op.Reshape(op.Constant(value_int=rows), one)
    signs = SignsOf(op.Slice(UnpackBitTiles(tiles, length), first, outputs, one))
    return op.Mul(signs, op.Slice(scales, first, outputs, first))


@script(ai_bqc)
def XnorLinear(bits, tiles, scales, bias, columns: int = 768, layout: str = "n16k64"):
    """x W^T + bias, float [..., N], of signs and a weight made of signs."""
    one = op.Constant(value_ints=[1])
    first = op.Constant(value_ints=[0])
    last = op.Constant(value_ints=[-1])
    length = op.Reshape(op.Constant(value_int=columns), one)
    lead = op.Slice(op.Shape(bits), first, last)
    rows = op.Div(op.Reshape(op.Size(bits), one), op.Shape(bits, start=-1))
    flat = op.Reshape(bits, op.Concat(rows, op.Shape(bits, start=-1), axis=0), allowzero=1)
    x = UnpackBits(flat, length)
    w = UnpackBitTiles(tiles, length)
    dots = op.MatMulInteger(x, w, op.Constant(value=SIGN_ZERO_POINT), op.Constant(value=SIGN_ZERO_POINT))
    scaled = op.Mul(op.Cast(dots, to=1), scales)
    # A zero is +0: sums with zeros of either sign differ between builds.
    zero = op.Constant(value_float=0.0)
    t = op.Slice(op.Where(op.Equal(scaled, zero), zero, scaled), first, op.Shape(bias), last)
    y = op.Reshape(t, op.Concat(lead, op.Shape(bias), axis=0), allowzero=1)
    return Finite(op.Add(y, op.Cast(bias, to=1)))


@script(ai_bqc)
def XnorLinearBinarize(bits, tiles, scales, bias, columns: int = 768, layout: str = "n16k64"):
    """`XnorLinear`, then `Binarize`."""
    return Binarize(XnorLinear(bits, tiles, scales, bias, columns=columns, layout=layout))


@script(ai_bqc)
def XnorLinearAddNorm(
    bits,
    tiles,
    scales,
    bias,
    residual,
    residual_exponents,
    gamma,
    beta,
    columns: int = 768,
    layout: str = "n16k64",
    residual_block: int = 64,
    residual_group: int = 0,
    epsilon: float = 1e-12,
    out_bits: int = 8,
    out_block: int = 64,
    out_group: int = 0,
):
    """`LayerNorm` of `XnorLinear` plus the dequantised residual, then `BlockQuantize`."""
    y = XnorLinear(bits, tiles, scales, bias, columns=columns, layout=layout)
    skip = BlockDequantize(residual, residual_exponents, block=residual_block, group=residual_group)
    normed = LayerNorm(op.Add(y, skip), gamma, beta, epsilon=epsilon)
    out, out_exponents = BlockQuantize(normed, bits=out_bits, block=out_block, group=out_group)
    return out, out_exponents

"""Between float and blocks, and the elementwise and row-wise functions."""

import numpy as np
from onnx import numpy_helper
from onnxscript import opset21 as op
from onnxscript import script
from onnxscript.values import Opset

from bqc.ops import constants as k

ai_bqc = Opset("ai.bqc", 1)

POWERS = numpy_helper.from_array(k.POWERS)
CODE_HIGH = numpy_helper.from_array(np.array([0, 0, 1, 3, 7, 15, 31, 63, 127], np.float32))
CODE_LOW = numpy_helper.from_array(np.array([0, 0, -1, -3, -8, -15, -31, -63, -127], np.float32))
EXP2 = k.EXP2
GELU = numpy_helper.from_array(np.array([k.GELU_ERF, k.GELU_TANH], np.float32))
FLT_MAX = k.FLT_MAX
FLT_MIN = k.FLT_MIN
LOG2E = k.LOG2E
TWO_LOG2E = 2 * k.LOG2E
TANH_LIMIT = k.TANH_LIMIT
GELU_LIMIT = k.GELU_LIMIT
NORM_BITS = k.NORM_BITS
NORM_FLOOR = k.NORM_BITS - 126
GELU_SCALE = float(np.float32(0.08))


@script(ai_bqc)
def Finite(x):
    """NaN becomes 0, infinities the largest finite numbers."""
    clean = op.Where(op.IsNaN(x), op.Constant(value_float=0.0), x)
    return op.Clip(clean, op.Constant(value_float=-FLT_MAX), op.Constant(value_float=FLT_MAX))


@script(ai_bqc)
def Sanitize(x):
    """`Finite`, and subnormal magnitudes become 0."""
    clean = Finite(x)
    small = op.Less(op.Abs(clean), op.Constant(value_float=FLT_MIN))
    return op.Where(small, op.Constant(value_float=0.0), clean)


@script(ai_bqc)
def CeilLog2(x):
    """Smallest c with x <= 2**c, int64: the number of powers of two below x."""
    below = op.Cast(
        op.Greater(op.Unsqueeze(x, op.Constant(value_ints=[-1])), op.Constant(value=POWERS)), to=7
    )
    count = op.ReduceSum(below, op.Constant(value_ints=[-1]), keepdims=1)
    return op.Add(op.Reshape(count, op.Shape(x), allowzero=1), op.Constant(value_int=-126))


@script(ai_bqc)
def PowerOfTwo(exponent):
    """2**exponent, float32, of an int8 or int64 exponent in [-126, 127]."""
    index = op.Add(op.Cast(exponent, to=7), op.Constant(value_int=126))
    return op.Gather(op.Constant(value=POWERS), index)


@script(ai_bqc)
def BlockOwner(length, block, group):
    """Block of each element, int64 [length]; span of a group, blocks in it and their size, [1]."""
    span = op.Where(op.Equal(group, op.Constant(value_ints=[0])), length, group)
    size = op.Min(block, span)
    per_group = op.Div(op.Sub(op.Add(span, size), op.Constant(value_ints=[1])), size)
    zero = op.Constant(value_int=0)
    element = op.Range(zero, op.Squeeze(length), op.Constant(value_int=1))
    owner = op.Add(op.Mul(op.Div(element, span), per_group), op.Div(op.Mod(element, span), size))
    return owner, span, per_group, size


@script(ai_bqc)
def ChooseExponent(largest, bits):
    """Exponent, int64, for a block whose largest magnitude is given."""
    wanted = op.Sub(CeilLog2(largest), op.Sub(bits, op.Constant(value_ints=[1])))
    return op.Max(wanted, op.Constant(value_ints=[-126]))


@script(ai_bqc)
def EncodeBlocks(clean, exponent, bits):
    """int8 codes of clean * 2**-exponent, rounded half to even and clamped."""
    scaled = op.Mul(clean, PowerOfTwo(op.Neg(exponent)))
    high = op.Gather(op.Constant(value=CODE_HIGH), bits)
    low = op.Gather(op.Constant(value=CODE_LOW), bits)
    return op.Cast(op.Max(op.Min(op.Round(scaled), high), low), to=3)


@script(ai_bqc)
def SplitBlocks(x, span, per_group, size):
    """[..., K] to [..., groups, blocks, size], the last block of a group padded with zeros."""
    lead = op.Slice(op.Shape(x), op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]))
    length = op.Shape(x, start=-1)
    grouped = op.Reshape(x, op.Concat(lead, op.Div(length, span), span, axis=0), allowzero=1)
    extra = op.Sub(op.Mul(per_group, size), span)
    pads = op.Concat(op.Constant(value_ints=[0]), extra, axis=0)
    padded = op.Pad(grouped, pads, op.Constant(value_float=0.0), op.Constant(value_ints=[-1]))
    return op.Reshape(padded, op.Concat(lead, op.Div(length, span), per_group, size, axis=0), allowzero=1)


@script(ai_bqc)
def BlockQuantize(x, bits: int = 8, block: int = 64, group: int = 0):
    """Codes int8 [..., K] and exponents int8 [..., n] of x float [..., K]."""
    clean = Sanitize(x)
    length = op.Shape(x, start=-1)
    bits1 = op.Reshape(op.Constant(value_int=bits), op.Constant(value_ints=[1]))
    block1 = op.Reshape(op.Constant(value_int=block), op.Constant(value_ints=[1]))
    group1 = op.Reshape(op.Constant(value_int=group), op.Constant(value_ints=[1]))
    owner, span, per_group, size = BlockOwner(length, block1, group1)
    blocks = SplitBlocks(op.Abs(clean), span, per_group, size)
    largest = op.ReduceMax(blocks, op.Constant(value_ints=[-1]), keepdims=1)
    lead = op.Slice(op.Shape(x), op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]))
    count = op.Mul(op.Div(length, span), per_group)
    flat = op.Reshape(largest, op.Concat(lead, count, axis=0), allowzero=1)
    exponent = ChooseExponent(flat, bits1)
    codes = EncodeBlocks(clean, op.Gather(exponent, owner, axis=-1), bits1)
    return codes, op.Cast(exponent, to=3)


@script(ai_bqc)
def BlockDequantize(codes, exponents, block: int = 64, group: int = 0):
    """codes * 2**exponents, float [..., K]."""
    length = op.Shape(codes, start=-1)
    block1 = op.Reshape(op.Constant(value_int=block), op.Constant(value_ints=[1]))
    group1 = op.Reshape(op.Constant(value_int=group), op.Constant(value_ints=[1]))
    owner, span, per_group, size = BlockOwner(length, block1, group1)
    return op.Mul(op.Cast(codes, to=1), op.Gather(PowerOfTwo(exponents), owner, axis=-1))


@script(ai_bqc)
def Exp2(t):
    """2**t as a fraction in [1, 2] and a power of two, both float32, for t in [-126, 127]."""
    whole = op.Floor(t)
    f = op.Sub(t, whole)
    acc = op.Add(op.Mul(op.Constant(value_float=EXP2[6]), f), op.Constant(value_float=EXP2[5]))
    acc = op.Add(op.Mul(acc, f), op.Constant(value_float=EXP2[4]))
    acc = op.Add(op.Mul(acc, f), op.Constant(value_float=EXP2[3]))
    acc = op.Add(op.Mul(acc, f), op.Constant(value_float=EXP2[2]))
    acc = op.Add(op.Mul(acc, f), op.Constant(value_float=EXP2[1]))
    acc = op.Add(op.Mul(acc, f), op.Constant(value_float=EXP2[0]))
    return acc, PowerOfTwo(op.Cast(whole, to=7))


@script(ai_bqc)
def Gelu(x, approximate: int = 0):
    """x * Phi(x), or its tanh form where approximate is 1."""
    clean = Sanitize(x)
    c = op.Gather(op.Constant(value=GELU), op.Constant(value_int=approximate))
    limit = op.Constant(value_float=GELU_LIMIT)
    one = op.Constant(value_float=1.0)
    t = op.Min(op.Abs(clean), limit)
    w = op.Sub(op.Mul(op.Mul(t, t), op.Constant(value_float=GELU_SCALE)), one)
    acc = op.Add(op.Mul(op.Gather(c, op.Constant(value_int=12)), w), op.Gather(c, op.Constant(value_int=11)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=10)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=9)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=8)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=7)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=6)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=5)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=4)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=3)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=2)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=1)))
    acc = op.Add(op.Mul(acc, w), op.Gather(c, op.Constant(value_int=0)))
    half = op.Mul(t, acc)
    negative = op.Less(clean, op.Constant(value_float=0.0))
    middle = op.Constant(value_float=0.5)
    phi = op.Where(negative, op.Sub(middle, half), op.Add(middle, half))
    outside = op.GreaterOrEqual(op.Abs(clean), limit)
    phi = op.Where(outside, op.Where(negative, op.Constant(value_float=0.0), one), phi)
    return op.Mul(clean, phi)


@script(ai_bqc)
def Tanh(x):
    """Hyperbolic tangent."""
    clean = Sanitize(x)
    one = op.Constant(value_float=1.0)
    t = op.Min(op.Abs(clean), op.Constant(value_float=TANH_LIMIT))
    fraction, power = Exp2(op.Mul(t, op.Constant(value_float=TWO_LOG2E)))
    grown = op.Mul(fraction, power)
    y = op.Sub(one, op.Div(op.Constant(value_float=2.0), op.Add(grown, one)))
    # Not Where(negative, -y, y): ONNX Runtime's Where turns -0 into +0.
    negative = op.Less(clean, op.Constant(value_float=0.0))
    return op.Mul(y, op.Where(negative, op.Constant(value_float=-1.0), one))


@script(ai_bqc)
def LayerNorm(x, gamma, beta, epsilon: float = 1e-12):
    """LayerNormalization over the last axis through integer sums and a float64 square root."""
    clean = Sanitize(x)
    axis = op.Constant(value_ints=[-1])
    largest = op.ReduceMax(op.Abs(clean), axis, keepdims=1)
    shift = op.Sub(
        op.Constant(value_int=NORM_BITS), op.Max(CeilLog2(largest), op.Constant(value_int=NORM_FLOOR))
    )
    scale = PowerOfTwo(shift)
    q = op.Cast(op.Round(op.Mul(clean, scale)), to=7)
    width = op.Cast(op.Shape(x, start=-1), to=11)
    mean = op.Div(op.Cast(op.ReduceSum(q, axis, keepdims=1), to=11), width)
    square = op.Div(op.Cast(op.ReduceSum(op.Mul(q, q), axis, keepdims=1), to=11), width)
    zero = op.Cast(op.Constant(value_float=0.0), to=11)
    variance = op.Max(op.Sub(square, op.Mul(mean, mean)), zero)
    wide = op.Cast(scale, to=11)
    epsilon64 = op.Cast(op.Constant(value_float=epsilon), to=11)
    deviation = op.Sqrt(op.Add(variance, op.Mul(epsilon64, op.Mul(wide, wide))))
    one = op.Cast(op.Constant(value_float=1.0), to=11)
    top = op.Cast(op.Constant(value_float=FLT_MAX), to=11)
    inverse = op.Cast(op.Min(op.Div(one, deviation), top), to=1)
    centred = op.Sub(op.Cast(q, to=1), op.Cast(mean, to=1))
    scaled = op.Mul(op.Mul(centred, inverse), op.Cast(gamma, to=1))
    return Finite(op.Add(scaled, op.Cast(beta, to=1)))

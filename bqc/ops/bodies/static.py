"""Activations of given scales: codes, exponents all alike, and the zero point."""

from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops import constants as k
from bqc.ops.bodies.elementary import (
    CODE_LOW,
    BlockOwner,
    EncodeBlocks,
    Finite,
    PowerOfTwo,
    Sanitize,
    ai_bqc,
)

FLT_MAX = k.FLT_MAX
MIN_EXPONENT = float(k.MIN_EXPONENT)
MAX_STATIC_EXPONENT = float(k.MAX_STATIC_EXPONENT)


@script(ai_bqc)
def StaticExponent(exponent):
    """A float exponent rounded half to even and clamped, int64."""
    top = op.Constant(value_float=MAX_STATIC_EXPONENT)
    return op.Cast(
        op.Max(op.Min(op.Round(Finite(exponent)), top), op.Constant(value_float=MIN_EXPONENT)), to=7
    )


@script(ai_bqc)
def StaticQuantize(
    x,
    exponent,
    bits: int = 8,
    block: int = 64,
    group: int = 0,
    minimum: float = -3.4028234663852886e38,
):
    """Codes int8 [..., K] of x float [..., K] at a given exponent, exponents int8 [..., n], and the offset [1]."""
    one = op.Constant(value_ints=[1])
    bits1 = op.Reshape(op.Constant(value_int=bits), one)
    block1 = op.Reshape(op.Constant(value_int=block), one)
    group1 = op.Reshape(op.Constant(value_int=group), one)
    length = op.Shape(x, start=-1)
    owner, span, per_group, size = BlockOwner(length, block1, group1)
    e = StaticExponent(exponent)
    low = op.Gather(op.Constant(value=CODE_LOW), bits1)
    below = op.Round(op.Mul(op.Constant(value_float=minimum), PowerOfTwo(op.Neg(e))))
    none = op.Constant(value_float=0.0)
    zero = op.Max(op.Min(op.Sub(low, below), none), low)
    offset = op.Mul(zero, PowerOfTwo(e))
    clean = Sanitize(op.Add(op.Where(op.IsNaN(x), none, x), offset))
    codes = EncodeBlocks(clean, e, bits1)
    lead = op.Slice(op.Shape(x), op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]))
    count = op.Mul(op.Div(length, span), per_group)
    exponents = op.Expand(op.Cast(e, to=3), op.Concat(lead, count, axis=0))
    return codes, exponents, offset


@script(ai_bqc)
def StaticQuantizeValues(x, exponent, heads: int = 12, bits: int = 8, block: int = 64):
    """Codes int8 [B, S, H] of x at a given exponent, exponents int8 [B, n]."""
    one = op.Constant(value_ints=[1])
    bits1 = op.Reshape(op.Constant(value_int=bits), one)
    block1 = op.Reshape(op.Constant(value_int=block), one)
    length = op.Shape(x, start=-1)
    group1 = op.Div(length, op.Reshape(op.Constant(value_int=heads), one))
    owner, span, per_group, size = BlockOwner(length, block1, group1)
    e = StaticExponent(exponent)
    count = op.Mul(op.Div(length, span), per_group)
    exponents = op.Expand(op.Cast(e, to=3), op.Concat(op.Shape(x, end=1), count, axis=0))
    return EncodeBlocks(Sanitize(x), e, bits1), exponents

"""Attention over quantised heads: scores, softmax codes, context, and the three in one."""

import numpy as np
from onnx import numpy_helper
from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops import constants as k
from bqc.ops.bodies.elementary import BlockOwner, BlockQuantize, Exp2, Finite, PowerOfTwo, Sanitize, ai_bqc
from bqc.ops.bodies.linear import ZERO_POINT, EffectiveMask

FLT_MAX = k.FLT_MAX
LOG2E = k.LOG2E
SOFTMAX_LOW = k.SOFTMAX_LOW
SOFTMAX_SCALE = k.SOFTMAX_SCALE
ZERO_U8 = numpy_helper.from_array(np.array(0, np.uint8))


@script(ai_bqc)
def SplitHeads(x, heads):
    """[B, S, H] to [B, h, S, d]; heads is int64 [1]."""
    length = op.Div(op.Shape(x, start=-1), heads)
    shape = op.Concat(op.Shape(x, end=2), heads, length, axis=0)
    return op.Transpose(op.Reshape(x, shape, allowzero=1), perm=[0, 2, 1, 3])


@script(ai_bqc)
def Shifted(codes):
    """int8 codes as uint8 codes + 128."""
    return op.Cast(op.Add(op.Cast(codes, to=6), op.Cast(op.Constant(value_int=128), to=6)), to=2)


@script(ai_bqc)
def BlockScores(q, q_exponents, key, key_exponents, heads: int = 12, block: int = 64, scale: float = 1.0):
    """(Q K^T) * scale, float [B, h, S, S]; blocks of a head in ascending order."""
    one = op.Constant(value_ints=[1])
    heads1 = op.Reshape(op.Constant(value_int=heads), one)
    q4 = SplitHeads(Shifted(q), heads1)
    k4 = op.Transpose(SplitHeads(Shifted(key), heads1), perm=[0, 1, 3, 2])
    q_scale = SplitHeads(PowerOfTwo(q_exponents), heads1)
    k_scale = op.Transpose(SplitHeads(PowerOfTwo(key_exponents), heads1), perm=[0, 1, 3, 2])
    size = op.Reshape(op.Constant(value_int=block), one)
    zero_point = op.Constant(value=ZERO_POINT)
    rows = op.Constant(value_ints=[2])
    columns = op.Constant(value_ints=[3])
    shape = op.Concat(op.Shape(q4, end=3), op.Shape(k4, start=3), axis=0)
    acc = op.Expand(op.Constant(value_float=0.0), shape)
    count = op.Shape(k_scale, start=2, end=3)
    i = op.Constant(value_ints=[0])
    going = op.Squeeze(op.Less(i, count))
    while going:
        start = op.Mul(i, size)
        end = op.Add(start, size)
        q_part = op.Slice(q4, start, end, columns)
        k_part = op.Slice(k4, start, end, rows)
        dot = op.Cast(op.MatMulInteger(q_part, k_part, zero_point, zero_point), to=1)
        following = op.Add(i, one)
        term = op.Mul(
            op.Mul(dot, op.Slice(k_scale, i, following, rows)), op.Slice(q_scale, i, following, columns)
        )
        acc = op.Add(acc, term)
        i = op.Identity(following)
        going = op.Squeeze(op.Less(following, count))
    return Finite(op.Mul(acc, op.Constant(value_float=scale)))


@script(ai_bqc)
def MaskedLogarithms(scores, mask, low):
    """(score - row maximum) * log2(e) between low and 0, and the keys kept [B, 1, 1, S]; all scores of an empty mask
    are alike."""
    keep, alive = EffectiveMask(mask)
    keep4 = op.Unsqueeze(keep, op.Constant(value_ints=[1, 2]))
    alive4 = op.Unsqueeze(
        op.Slice(
            alive, op.Constant(value_ints=[0]), op.Constant(value_ints=[1]), op.Constant(value_ints=[1])
        ),
        op.Constant(value_ints=[1, 2]),
    )
    zero = op.Constant(value_float=0.0)
    s = op.Where(alive4, Sanitize(scores), zero)
    shown = op.Where(keep4, s, op.Constant(value_float=-FLT_MAX))
    top = op.ReduceMax(shown, op.Constant(value_ints=[-1]), keepdims=1)
    t = op.Mul(op.Sub(s, top), op.Constant(value_float=LOG2E))
    return op.Min(op.Max(t, low), zero), keep4


@script(ai_bqc)
def MaskedSoftmax(scores, mask):
    """Codes uint8 of exp(score - row maximum) * 255; masked keys 0; an empty mask keeps all keys alike."""
    t, keep4 = MaskedLogarithms(scores, mask, op.Constant(value_float=SOFTMAX_LOW))
    fraction, power = Exp2(t)
    codes = op.Round(op.Mul(fraction, op.Mul(power, op.Constant(value_float=SOFTMAX_SCALE))))
    return op.Cast(op.Where(keep4, codes, op.Constant(value_float=0.0)), to=2)


@script(ai_bqc)
def SoftmaxDequantize(codes):
    """Codes divided by the sum of their row, float."""
    total = op.ReduceSum(op.Cast(codes, to=6), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Div(op.Cast(codes, to=1), op.Cast(total, to=1))


@script(ai_bqc)
def BlockContext(probabilities, values, value_exponents, heads: int = 12, block: int = 64):
    """Codes times values divided by the sum of the codes, float [B, S, H]."""
    one = op.Constant(value_ints=[1])
    heads1 = op.Reshape(op.Constant(value_int=heads), one)
    v4 = SplitHeads(Shifted(values), heads1)
    width = op.Shape(v4, start=3)
    owner, span, per_group, size = BlockOwner(
        width, op.Reshape(op.Constant(value_int=block), one), op.Constant(value_ints=[0])
    )
    grid = op.Concat(op.Shape(v4, end=2), op.Constant(value_ints=[1]), per_group, axis=0)
    scale = op.Gather(op.Reshape(PowerOfTwo(value_exponents), grid, allowzero=1), owner, axis=-1)
    dot = op.MatMulInteger(probabilities, v4, op.Constant(value=ZERO_U8), op.Constant(value=ZERO_POINT))
    total = op.ReduceSum(op.Cast(probabilities, to=6), op.Constant(value_ints=[-1]), keepdims=1)
    total = op.Slice(total, op.Constant(value_ints=[0]), one, op.Constant(value_ints=[3]))
    c4 = op.Div(op.Mul(op.Cast(dot, to=1), scale), op.Cast(total, to=1))
    return op.Reshape(op.Transpose(c4, perm=[0, 2, 1, 3]), op.Shape(values), allowzero=1)


@script(ai_bqc)
def BlockAttention(
    q,
    q_exponents,
    key,
    key_exponents,
    values,
    value_exponents,
    mask,
    heads: int = 12,
    block: int = 64,
    scale: float = 1.0,
    out_bits: int = 8,
):
    """`BlockScores`, `MaskedSoftmax`, `BlockContext`, then codes and exponents inside heads."""
    scores = BlockScores(q, q_exponents, key, key_exponents, heads=heads, block=block, scale=scale)
    probabilities = MaskedSoftmax(scores, mask)
    context = BlockContext(probabilities, values, value_exponents, heads=heads, block=block)
    # A head is a group: quantise [B, S, h, d], whose last axis is one head, and put the shapes back.
    heads1 = op.Reshape(op.Constant(value_int=heads), op.Constant(value_ints=[1]))
    shape = op.Shape(context)
    width = op.Div(op.Shape(context, start=2), heads1)
    split = op.Reshape(context, op.Concat(op.Shape(context, end=2), heads1, width, axis=0), allowzero=1)
    codes, exponents = BlockQuantize(split, bits=out_bits, block=block, group=0)
    per_head = op.Shape(exponents, start=3)
    flat = op.Concat(op.Shape(context, end=2), op.Mul(heads1, per_head), axis=0)
    return op.Reshape(codes, shape, allowzero=1), op.Reshape(exponents, flat, allowzero=1)

"""Attention of float32 numbers, computed in float32 in one order."""

from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops import constants as k
from bqc.ops.bodies.attention import MaskedLogarithms, SplitHeads
from bqc.ops.bodies.elementary import Exp2, Sanitize, ai_bqc

FLOAT_SOFTMAX_LOW = k.FLOAT_SOFTMAX_LOW


@script(ai_bqc)
def FloatScores(q, key, heads, scale):
    """(Q K^T) * scale, float [B, h, S, S]: one float32 sum a score, channels of a head in order; heads is int64 [1]."""
    one = op.Constant(value_ints=[1])
    rows = op.Constant(value_ints=[2])
    columns = op.Constant(value_ints=[3])
    q4 = SplitHeads(Sanitize(q), heads)
    k4 = op.Transpose(SplitHeads(Sanitize(key), heads), perm=[0, 1, 3, 2])
    shape = op.Concat(op.Shape(q4, end=3), op.Shape(k4, start=3), axis=0)
    acc = op.Expand(op.Constant(value_float=0.0), shape)
    width = op.Shape(q4, start=3)
    i = op.Constant(value_ints=[0])
    going = op.Squeeze(op.Less(i, width))
    while going:
        following = op.Add(i, one)
        acc = op.Add(acc, op.Mul(op.Slice(q4, i, following, columns), op.Slice(k4, i, following, rows)))
        i = op.Identity(following)
        going = op.Squeeze(op.Less(following, width))
    return op.Mul(acc, scale)


@script(ai_bqc)
def FloatContext(weights, values, heads):
    """Weights times values divided by the sum of the weights, [B, S, H]: float32 sums, keys in order."""
    one = op.Constant(value_ints=[1])
    rows = op.Constant(value_ints=[2])
    columns = op.Constant(value_ints=[3])
    v4 = SplitHeads(Sanitize(values), heads)
    zero = op.Constant(value_float=0.0)
    acc = op.Expand(zero, op.Concat(op.Shape(weights, end=3), op.Shape(v4, start=3), axis=0))
    total = op.Expand(zero, op.Concat(op.Shape(weights, end=3), one, axis=0))
    keys = op.Shape(weights, start=3)
    i = op.Constant(value_ints=[0])
    going = op.Squeeze(op.Less(i, keys))
    while going:
        following = op.Add(i, one)
        weight = op.Slice(weights, i, following, columns)
        acc = op.Add(acc, op.Mul(weight, op.Slice(v4, i, following, rows)))
        total = op.Add(total, weight)
        i = op.Identity(following)
        going = op.Squeeze(op.Less(following, keys))
    c4 = Sanitize(op.Div(acc, total))
    return op.Reshape(op.Transpose(c4, perm=[0, 2, 1, 3]), op.Shape(values), allowzero=1)


@script(ai_bqc)
def FloatAttention(q, key, values, mask, heads: int = 12, scale: float = 1.0):
    """softmax(Q K^T * scale) V of the keys that the mask keeps, float [B, S, H]; all alike where it keeps none."""
    heads1 = op.Reshape(op.Constant(value_int=heads), op.Constant(value_ints=[1]))
    scores = FloatScores(q, key, heads1, op.Constant(value_float=scale))
    t, keep4 = MaskedLogarithms(scores, mask, op.Constant(value_float=FLOAT_SOFTMAX_LOW))
    fraction, power = Exp2(t)
    weights = op.Where(keep4, op.Mul(fraction, power), op.Constant(value_float=0.0))
    return FloatContext(weights, values, heads1)

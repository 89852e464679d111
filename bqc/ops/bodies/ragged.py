"""Attention over sequences of different lengths, one after another without padding.

``seq_start`` int64 [B + 1] says where they begin and, last, how many tokens there are: token t belongs to
sequence b where ``seq_start[b] <= t < seq_start[b + 1]``.
"""

from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops.bodies.attention import BlockAttention
from bqc.ops.bodies.elementary import ai_bqc
from bqc.ops.bodies.float_attention import FloatAttention
from bqc.ops.bodies.linear import BlockQuantizeValues


@script(ai_bqc)
def RaggedGrid(seq_start):
    """The token at every place of the padded batch, int64 [B, S] with the number of tokens where there is none; and
    whether there is one."""
    first = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    last = op.Constant(value_ints=[-1])
    starts = op.Slice(seq_start, first, last, first)
    lengths = op.Sub(op.Slice(seq_start, one, op.Shape(seq_start), first), starts)
    longest = op.ReduceMax(op.Concat(lengths, first, axis=0), first, keepdims=0)
    places = op.Unsqueeze(op.Range(op.Constant(value_int=0), longest, op.Constant(value_int=1)), first)
    taken = op.Less(places, op.Unsqueeze(lengths, one))
    tokens = op.Slice(seq_start, last, op.Shape(seq_start), first)
    return op.Where(taken, op.Add(op.Unsqueeze(starts, one), places), tokens), taken


@script(ai_bqc)
def PadTokens(x, grid):
    """Tokens [T, K] as [B, S, K], zero where there is none."""
    wide = op.Concat(op.Constant(value_ints=[1]), op.Shape(x, start=1), axis=0)
    zero = op.Expand(op.CastLike(op.Constant(value_int=0), x), wide)
    return op.Gather(op.Concat(x, zero, axis=0), grid, axis=0)


@script(ai_bqc)
def UnpadTokens(x, taken):
    """[B, S, K] as tokens [T, K]."""
    places = op.Reshape(op.Size(taken), op.Constant(value_ints=[1]))
    flat = op.Reshape(x, op.Concat(places, op.Shape(x, start=2), axis=0), allowzero=1)
    return op.Compress(flat, op.Reshape(taken, places, allowzero=1), axis=0)


@script(ai_bqc)
def RaggedBlockQuantizeValues(x, mask, seq_start, heads: int = 12, bits: int = 8, block: int = 64):
    """`BlockQuantizeValues` of sequences without padding: codes int8 [T, H] of x, exponents int8 [B, n]."""
    grid, taken = RaggedGrid(seq_start)
    padded, exponents = BlockQuantizeValues(
        PadTokens(x, grid), PadTokens(mask, grid), heads=heads, bits=bits, block=block
    )
    return UnpadTokens(padded, taken), exponents


@script(ai_bqc)
def RaggedBlockAttention(
    q,
    q_exponents,
    key,
    key_exponents,
    values,
    value_exponents,
    mask,
    seq_start,
    heads: int = 12,
    block: int = 64,
    scale: float = 1.0,
    out_bits: int = 8,
):
    """`BlockAttention` of sequences without padding, as if each were padded to the longest and masked there."""
    grid, taken = RaggedGrid(seq_start)
    codes, exponents = BlockAttention(
        PadTokens(q, grid),
        PadTokens(q_exponents, grid),
        PadTokens(key, grid),
        PadTokens(key_exponents, grid),
        PadTokens(values, grid),
        value_exponents,
        PadTokens(mask, grid),
        heads=heads,
        block=block,
        scale=scale,
        out_bits=out_bits,
    )
    return UnpadTokens(codes, taken), UnpadTokens(exponents, taken)


@script(ai_bqc)
def RaggedFloatAttention(q, key, values, mask, seq_start, heads: int = 12, scale: float = 1.0):
    """`FloatAttention` of sequences without padding, as if each were padded to the longest and masked there."""
    grid, taken = RaggedGrid(seq_start)
    context = FloatAttention(
        PadTokens(q, grid),
        PadTokens(key, grid),
        PadTokens(values, grid),
        PadTokens(mask, grid),
        heads=heads,
        scale=scale,
    )
    return UnpadTokens(context, taken)

"""Weights in fp16 and as indices of fp16 numbers: linears computed in float32 in one order, and lookups."""

import numpy as np
from onnx import numpy_helper
from onnxscript import opset21 as op
from onnxscript import script

from bqc.ops import constants as k
from bqc.ops.bodies.elementary import Finite, Gelu, LayerNorm, ai_bqc

HALF_MAX = k.HALF_MAX
INPUT_STEP = numpy_helper.from_array(np.array([16], np.int64))


@script(ai_bqc)
def HalfRound(x):
    """x rounded to fp16 (to nearest, ties to even), as float32; NaN becomes 0, what is beyond +-65504 becomes that."""
    clean = op.Where(op.IsNaN(x), op.Constant(value_float=0.0), x)
    within = op.Clip(clean, op.Constant(value_float=-HALF_MAX), op.Constant(value_float=HALF_MAX))
    return op.Cast(op.Cast(within, to=10), to=1)


@script(ai_bqc)
def FromTable(indices, table):
    """Numbers of a table fp16 [256], as float32 in the shape of the indices."""
    return op.Gather(op.Cast(table, to=1), op.Cast(indices, to=6))


@script(ai_bqc)
def UnpackStrips(tiles):
    """Float tiles of layout n16, [strips, K, 16], to [K, ceil16(N)]."""
    inputs = op.Shape(tiles, start=1, end=2)
    shape = op.Concat(inputs, op.Constant(value_ints=[-1]), axis=0)
    return op.Reshape(op.Transpose(tiles, perm=[1, 0, 2]), shape)


@script(ai_bqc)
def UnpackMatrix(tiles, rows: int = 768):
    """The same without what is padding, [K, rows]."""
    first = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    outputs = op.Reshape(op.Constant(value_int=rows), one)
    return op.Slice(UnpackStrips(tiles), first, outputs, one)


@script(ai_bqc)
def GatherLanes(ids, tiles, rows: int = 768):
    """Rows [..., K] of a table packed as tiles n16 of any type."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    last = op.Constant(value_ints=[-1])
    sixteen = op.Constant(value=INPUT_STEP)
    row = op.Gather(op.Range(zero, op.Constant(value_int=rows), one), ids)
    inputs = op.Shape(tiles, start=1, end=2)
    start = op.Add(op.Mul(op.Div(row, sixteen), op.Mul(inputs, sixteen)), op.Mod(row, sixteen))
    step = op.Mul(op.Range(zero, op.Squeeze(inputs), one), sixteen)
    return op.Gather(op.Reshape(tiles, last), op.Add(op.Unsqueeze(start, last), step))


@script(ai_bqc)
def HalfProduct(x, w, bias):
    """`HalfRound` of x [..., K] times w [K, ceil16(N)] plus bias [N]: one float32 sum an output, inputs in order."""
    first = op.Constant(value_ints=[0])
    last = op.Constant(value_ints=[-1])
    step = op.Constant(value_ints=[1])
    length = op.Shape(x, start=-1)
    rows = op.Div(op.Reshape(op.Size(x), step), length)
    flat = op.Reshape(HalfRound(x), op.Concat(rows, length, axis=0), allowzero=1)
    acc = op.Expand(op.Constant(value_float=0.0), op.Concat(rows, op.Shape(w, start=1), axis=0))
    i = op.Constant(value_ints=[0])
    going = op.Squeeze(op.Less(i, length))
    while going:
        following = op.Add(i, step)
        acc = op.Add(acc, op.Mul(op.Slice(flat, i, following, last), op.Slice(w, i, following, first)))
        i = op.Identity(following)
        going = op.Squeeze(op.Less(following, length))
    kept = op.Slice(acc, first, op.Shape(bias), last)
    shape = op.Concat(op.Slice(op.Shape(x), first, last), op.Shape(bias), axis=0)
    return Finite(op.Add(op.Reshape(kept, shape, allowzero=1), op.Cast(bias, to=1)))


@script(ai_bqc)
def HalfDequantize(rows):
    """fp16 numbers [N, K] as float."""
    return op.Cast(rows, to=1)


@script(ai_bqc)
def HalfDequantizeTiles(tiles, rows: int = 768, columns: int = 768, layout: str = "n16"):
    """The packed weight as a float matrix [K, N] (rows is N, columns is K)."""
    return UnpackMatrix(op.Cast(tiles, to=1), rows=rows)


@script(ai_bqc)
def HalfLinear(x, tiles, bias, layout: str = "n16"):
    """x W^T + bias, float [..., N], of x rounded to fp16 and a weight in fp16, summed in float32, inputs in order."""
    return HalfProduct(x, UnpackStrips(op.Cast(tiles, to=1)), bias)


@script(ai_bqc)
def HalfLinearGelu(x, tiles, bias, approximate: int = 0, layout: str = "n16"):
    """`HalfLinear`, then `Gelu`."""
    return Gelu(HalfLinear(x, tiles, bias, layout=layout), approximate=approximate)


@script(ai_bqc)
def HalfLinearRelu(x, tiles, bias, layout: str = "n16"):
    """`HalfLinear`, then what of it is above 0."""
    return op.Max(HalfLinear(x, tiles, bias, layout=layout), op.Constant(value_float=0.0))


@script(ai_bqc)
def HalfLinearAddNorm(x, tiles, bias, residual, gamma, beta, epsilon: float = 1e-12, layout: str = "n16"):
    """`LayerNorm` of `HalfLinear` plus the residual, float [..., N]."""
    y = HalfLinear(x, tiles, bias, layout=layout)
    return LayerNorm(op.Add(y, residual), gamma, beta, epsilon=epsilon)


@script(ai_bqc)
def HalfGather(ids, rows, columns: int = 768, layout: str = "row"):
    """Rows of a table in fp16, float [..., columns]."""
    return op.Cast(op.Gather(rows, ids), to=1)


@script(ai_bqc)
def HalfGatherTiles(ids, tiles, columns: int = 768, rows: int = 768, layout: str = "n16"):
    """Rows, float [..., columns], of a table packed as the weight of a linear."""
    return op.Cast(GatherLanes(ids, tiles, rows=rows), to=1)


@script(ai_bqc)
def IndexDequantize(codes, table):
    """The numbers of a table that indices [N, K] stand for, float."""
    return FromTable(codes, table)


@script(ai_bqc)
def IndexDequantizeTiles(tiles, table, rows: int = 768, columns: int = 768, layout: str = "n16"):
    """The packed weight as a float matrix [K, N] (rows is N, columns is K)."""
    return UnpackMatrix(FromTable(tiles, table), rows=rows)


@script(ai_bqc)
def IndexLinear(x, tiles, table, bias, layout: str = "n16"):
    """`HalfLinear` of a weight whose fp16 numbers are stored as indices into a table."""
    return HalfProduct(x, UnpackStrips(FromTable(tiles, table)), bias)


@script(ai_bqc)
def IndexLinearGelu(x, tiles, table, bias, approximate: int = 0, layout: str = "n16"):
    """`IndexLinear`, then `Gelu`."""
    return Gelu(IndexLinear(x, tiles, table, bias, layout=layout), approximate=approximate)


@script(ai_bqc)
def IndexLinearRelu(x, tiles, table, bias, layout: str = "n16"):
    """`IndexLinear`, then what of it is above 0."""
    return op.Max(IndexLinear(x, tiles, table, bias, layout=layout), op.Constant(value_float=0.0))


@script(ai_bqc)
def IndexLinearAddNorm(
    x, tiles, table, bias, residual, gamma, beta, epsilon: float = 1e-12, layout: str = "n16"
):
    """`LayerNorm` of `IndexLinear` plus the residual, float [..., N]."""
    y = IndexLinear(x, tiles, table, bias, layout=layout)
    return LayerNorm(op.Add(y, residual), gamma, beta, epsilon=epsilon)


@script(ai_bqc)
def IndexGather(ids, codes, table, columns: int = 768, layout: str = "row"):
    """Rows of a table of indices as the numbers they stand for, float [..., columns]."""
    return FromTable(op.Gather(codes, ids), table)


@script(ai_bqc)
def IndexGatherTiles(ids, tiles, table, columns: int = 768, rows: int = 768, layout: str = "n16"):
    """The same of a table packed as the weight of a linear."""
    return FromTable(GatherLanes(ids, tiles, rows=rows), table)

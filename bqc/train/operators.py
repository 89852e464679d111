"""The operators that a graph may hold to be run by torch: one entry, one torch function.

A function takes the tensors of the node's inputs in order and its attributes by name. Inputs at ``static``
positions come as Python numbers or tuples (from an initializer, or computed from sizes); functions that make tensors
from nothing get the ``device``. ``SIZES`` holds what operators do to such numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from bqc.ops.registry import DOMAIN
from bqc.train import quantizers

__all__ = ["OPERATORS", "SIZES", "Operator", "supported"]

Sizes = int | tuple[int, ...]

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
}


@dataclass(frozen=True)
class Operator:
    """How torch runs one operator."""

    function: Callable[..., Any]
    static: tuple[int, ...] = ()
    """Inputs that are Python numbers, not tensors."""
    makes: bool = False
    """Whether the function makes a tensor from numbers alone: it gets ``device``."""
    learns: bool = False
    """Whether its second input is a scale that is learned, by the rule ``learn``."""


def supported() -> str:
    """The names of all operators, for messages."""
    names = {f"{domain}::{name}" if domain else name for domain, name in OPERATORS}
    return ", ".join(sorted(names | set(SIZES)))


# Elementwise


def _cast(x: Tensor, *, to: int, **_: Any) -> Tensor:
    return x.to(DTYPES[to])


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    return torch.clamp(x, low, high)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def reduce(first: Tensor, *rest: Tensor) -> Tensor:
        for one in rest:
            first = function(first, one)
        return first

    return reduce


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


# Rows


def _layer_norm(
    x: Tensor, gamma: Tensor, beta: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    return functional.layer_norm(x, x.shape[axis:], gamma, beta, epsilon)


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def _cumsum(x: Tensor, axis: int) -> Tensor:
    return torch.cumsum(x, axis)


def _sum(x: Tensor, **where: Any) -> Tensor:
    return torch.sum(x, dtype=x.dtype, **where)


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, **_: Any) -> Tensor:
        return function(x, dim=tuple(range(x.dim())) if axes is None else axes, keepdim=bool(keepdims))

    return reduce


# Shapes


def _reshape(x: Tensor, shape: Sequence[int], *, allowzero: int = 0) -> Tensor:
    if not allowzero:
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return x.reshape(tuple(shape))


def _transpose(x: Tensor, *, perm: Sequence[int]) -> Tensor:
    return x.permute(tuple(perm))


def _unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _split(
    x: Tensor, sizes: Sequence[int] | None = None, *, axis: int = 0, num_outputs: int = 2
) -> tuple[Tensor, ...]:
    if sizes is not None:
        return torch.split(x, tuple(sizes), axis)
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


def _slice(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    cuts = [slice(None)] * x.dim()
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        cuts[i if axes is None else axes[i]] = slice(start, end, 1 if steps is None else steps[i])
    return x[tuple(cuts)]


def _gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, index.reshape(-1)).reshape(shape)


def _range(start: int, limit: int, step: int, *, device: torch.device) -> Tensor:
    return torch.arange(start, limit, step, device=device)


def _fill(shape: Sequence[int], *, value: float = 0.0, device: torch.device) -> Tensor:
    return torch.full(tuple(shape), value, device=device)


_STANDARD = {
    "Abs": Operator(torch.abs),
    "Add": Operator(torch.add),
    "And": Operator(torch.logical_and),
    "Cast": Operator(_cast),
    "Clip": Operator(_clip, static=(1, 2)),
    "Concat": Operator(_concat),
    "ConstantOfShape": Operator(_fill, static=(0,), makes=True),
    "CumSum": Operator(_cumsum, static=(1,)),
    "Div": Operator(_divide),
    "Equal": Operator(torch.eq),
    "Erf": Operator(torch.erf),
    "Exp": Operator(torch.exp),
    "Expand": Operator(_expand, static=(1,)),
    "Gather": Operator(_gather),
    "Gelu": Operator(_gelu),
    "Greater": Operator(torch.gt),
    "GreaterOrEqual": Operator(torch.ge),
    "Identity": Operator(lambda x: x),
    "LayerNormalization": Operator(_layer_norm),
    "Less": Operator(torch.lt),
    "LessOrEqual": Operator(torch.le),
    "Log": Operator(torch.log),
    "MatMul": Operator(torch.matmul),
    "Max": Operator(_variadic(torch.maximum)),
    "Min": Operator(_variadic(torch.minimum)),
    "Mul": Operator(torch.mul),
    "Neg": Operator(torch.neg),
    "Not": Operator(torch.logical_not),
    "Or": Operator(torch.logical_or),
    "Pow": Operator(torch.pow),
    "Range": Operator(_range, static=(0, 1, 2), makes=True),
    "ReduceL2": Operator(_reduce(torch.linalg.vector_norm), static=(1,)),
    "ReduceMax": Operator(_reduce(torch.amax), static=(1,)),
    "ReduceMean": Operator(_reduce(torch.mean), static=(1,)),
    "ReduceSum": Operator(_reduce(_sum), static=(1,)),
    "Relu": Operator(torch.relu),
    "Reshape": Operator(_reshape, static=(1,)),
    "Sigmoid": Operator(torch.sigmoid),
    "Slice": Operator(_slice, static=(1, 2, 3, 4)),
    "Softmax": Operator(_softmax),
    "Split": Operator(_split, static=(1,)),
    "Sqrt": Operator(torch.sqrt),
    "Squeeze": Operator(_squeeze, static=(1,)),
    "Sub": Operator(torch.sub),
    "Tanh": Operator(torch.tanh),
    "Transpose": Operator(_transpose),
    "Unsqueeze": Operator(_unsqueeze, static=(1,)),
    "Where": Operator(torch.where),
}

_QUANTIZED = {
    "Binarize": Operator(quantizers.binarize),
    "BinaryDequantize": Operator(quantizers.binary_dequantize),
    "BlockDequantize": Operator(quantizers.block_dequantize),
    "BlockQuantize": Operator(quantizers.block_quantize),
    "BlockQuantizeValues": Operator(quantizers.block_quantize_values),
    "HalfRound": Operator(quantizers.fake_half),
    "MaskedSoftmax": Operator(quantizers.masked_softmax),
    "SoftmaxDequantize": Operator(quantizers.softmax_dequantize),
    "StaticQuantize": Operator(quantizers.static_quantize, learns=True),
    "StaticQuantizeValues": Operator(quantizers.static_quantize_values, learns=True),
}

OPERATORS: dict[tuple[str, str], Operator] = {
    **{("", name): operator for name, operator in _STANDARD.items()},
    **{(DOMAIN, name): operator for name, operator in _QUANTIZED.items()},
}
"""(domain, name) -> how torch runs it."""


# Numbers that sizes are computed with: an int, or a tuple of ints for a vector.


def _shape(x: Tensor | Sizes, *, start: int = 0, end: int | None = None) -> tuple[int, ...]:
    if isinstance(x, Tensor):
        return tuple(x.shape[start:end])
    return () if isinstance(x, int) else (len(x),)


def _size_fill(shape: tuple[int, ...], *, value: int = 0) -> Sizes:
    return (value,) * shape[0]


def _size_gather(sizes: tuple[int, ...], index: Sizes, **_: Any) -> Sizes:
    return sizes[index] if isinstance(index, int) else tuple(sizes[i] for i in index)


def _size_slice(
    sizes: tuple[int, ...], starts: Sequence[int], ends: Sequence[int], *_: Sequence[int]
) -> tuple[int, ...]:
    return sizes[starts[0] : ends[0]]


def _elementwise(function: Callable[..., int]) -> Callable[..., Sizes]:
    def apply(*values: Sizes) -> Sizes:
        if all(isinstance(value, int) for value in values):
            return function(*values)
        # A vector of one element meets numbers and vectors of any length.
        vectors = [(value,) if isinstance(value, int) else value for value in values]
        length = max(map(len, vectors))
        spread = [vector * length if len(vector) == 1 else vector for vector in vectors]
        return tuple(function(*row) for row in zip(*spread, strict=True))

    return apply


SIZES: dict[str, Callable[..., Sizes]] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Cast": lambda x, **_: x,
    "Concat": lambda *parts, **_: sum(parts, ()),
    "ConstantOfShape": _size_fill,
    "Div": _elementwise(lambda a, b: a // b),
    "Equal": _elementwise(lambda a, b: a == b),
    "Gather": _size_gather,
    "Identity": lambda x: x,
    "Mul": _elementwise(lambda a, b: a * b),
    "Reshape": lambda x, shape, **_: (x if isinstance(x, tuple) else (x,)) if shape else x,
    "Shape": _shape,
    "Slice": _size_slice,
    "Squeeze": lambda x, *_: x[0],
    "Sub": _elementwise(lambda a, b: a - b),
    "Unsqueeze": lambda x, *_: (x,),
    "Where": _elementwise(lambda condition, a, b: a if condition else b),
}
"""The operators on sizes; ``Shape`` is where sizes begin."""

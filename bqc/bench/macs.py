"""Multiply-accumulates of operators, from the shapes that ONNX Runtime's profile tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bqc.runtime.native import Arithmetic

__all__ = ["arithmetic", "macs"]

Shapes = Sequence[Sequence[int]]


def _product(inputs: Shapes, outputs: Shapes) -> int:
    """Rows times inputs times outputs: the first input ends in what is summed over."""
    return math.prod(outputs[0]) * inputs[0][-1]


def _signs(inputs: Shapes, outputs: Shapes) -> int:
    """Rows times inputs times outputs, where inputs lie in bits and the fourth one is the bias."""
    *rows, packed = inputs[0]
    return math.prod(rows) * 8 * packed * inputs[3][0]


def _packed_attention(inputs: Shapes, outputs: Shapes) -> int:
    """Query, key and value of x [B, S, I] by one weight [I, 3H], then the attention itself."""
    batch, length, width = inputs[0]
    return batch * length * width * inputs[1][-1] + 2 * batch * length * length * outputs[0][-1]


def _attention(inputs: Shapes, outputs: Shapes) -> int:
    """Scores and context of a query and a key [B, S, H]."""
    batch, length, width = inputs[0]
    return 2 * batch * length * length * width


def _ragged_attention(inputs: Shapes, outputs: Shapes) -> int:
    """Of tokens [T, H] in sequences (last input, [B + 1]) that are taken to be equally long, which gives least."""
    tokens, width = inputs[0]
    return 2 * tokens * tokens * width // max(inputs[-1][0] - 1, 1)


def _scores(inputs: Shapes, outputs: Shapes) -> int:
    return _attention(inputs, outputs) // 2


_OPERATORS: dict[str, tuple[Arithmetic, Callable[[Shapes, Shapes], int]]] = {
    "MatMul": ("fp32", _product),
    "FusedMatMul": ("fp32", _product),
    "Gemm": ("fp32", _product),
    "FusedGemm": ("fp32", _product),
    "Attention": ("fp32", _packed_attention),
    "MultiHeadAttention": ("fp32", _attention),
    "QAttention": ("int8", _packed_attention),
    "MatMulInteger": ("int8", _product),
    "MatMulIntegerToFloat": ("int8", _product),
    "DynamicQuantizeMatMul": ("int8", _product),
    "MatMulNBits": ("int8", _product),
    "BlockLinear": ("int8", _product),
    "BlockLinearQuantize": ("int8", _product),
    "BlockLinearQuantizeValues": ("int8", _product),
    "BlockLinearGelu": ("int8", _product),
    "BlockLinearRelu": ("int8", _product),
    "BlockLinearAddNorm": ("int8", _product),
    "SignLinear": ("int8", _product),
    "SignLinearQuantize": ("int8", _product),
    "SignLinearQuantizeValues": ("int8", _product),
    "SignLinearGelu": ("int8", _product),
    "SignLinearRelu": ("int8", _product),
    "SignLinearAddNorm": ("int8", _product),
    "HalfLinear": ("fp32", _product),
    "HalfLinearGelu": ("fp32", _product),
    "HalfLinearRelu": ("fp32", _product),
    "HalfLinearAddNorm": ("fp32", _product),
    "IndexLinear": ("fp32", _product),
    "IndexLinearGelu": ("fp32", _product),
    "IndexLinearRelu": ("fp32", _product),
    "IndexLinearAddNorm": ("fp32", _product),
    "XnorLinear": ("bits", _signs),
    "XnorLinearBinarize": ("bits", _signs),
    "XnorLinearAddNorm": ("bits", _signs),
    "SparseLinear": ("int8", _product),
    "SparseLinearQuantize": ("int8", _product),
    "SparseLinearQuantizeValues": ("int8", _product),
    "SparseLinearGelu": ("int8", _product),
    "SparseLinearRelu": ("int8", _product),
    "SparseLinearAddNorm": ("int8", _product),
    "BlockScores": ("int8", _scores),
    "BlockContext": ("int8", _product),
    "BlockAttention": ("int8", _attention),
    "RaggedBlockAttention": ("int8", _ragged_attention),
    "FloatAttention": ("fp32", _attention),
    "RaggedFloatAttention": ("fp32", _ragged_attention),
}


def macs(operator: str, inputs: Shapes, outputs: Shapes) -> int:
    """Multiply-accumulates of one run of a node; 0 of an operator that is no matrix product.

    Args:
        operator: its type; domains do not clash.
        inputs: shapes of the inputs that are present, in order.
        outputs: shapes of the outputs.
    """
    known = _OPERATORS.get(operator)
    return known[1](inputs, outputs) if known else 0


def arithmetic(operator: str) -> Arithmetic | None:
    """The arithmetic whose peak bounds an operator; None of one that is no matrix product."""
    known = _OPERATORS.get(operator)
    return known[0] if known else None

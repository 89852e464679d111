"""The operator registry of ``ai.bqc``: body, numpy reference, arity, attributes and shape inference of every
operator.

Inference through a function body loses block counts and the ONNX checker accepts any arity in a custom
domain, so passes take both from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import onnx_ir as ir

from bqc.formats.geometry import Blocks
from bqc.ops import (
    float_reference,
    half_reference,
    ragged_reference,
    reference,
    sign_reference,
    sparse_reference,
    static_reference,
    xnor_reference,
)

__all__ = ["DOMAIN", "OPERATORS", "OPSET", "VERSION", "Operator"]

DOMAIN = "ai.bqc"
VERSION = 1
OPSET = 21
"""Version of the default domain that the bodies are written in."""

Dim = Any  # int, symbolic name or None
Shape = Sequence[Dim]
Inferred = list[tuple[ir.DataType, list[Dim]]]
Attributes = Mapping[str, Any]

F32, I8, U8 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8


@dataclass(frozen=True)
class Operator:
    """One operator: everything but its kernels."""

    name: str
    family: str
    """The module of ``bqc.ops.bodies`` that has its body."""
    reference: Callable[..., Any]
    """numpy, same inputs and attributes (but layouts)."""
    infer: Callable[[Sequence[Shape], Attributes], Inferred]
    """Output types and shapes from input shapes and attributes."""
    has_kernel: bool = True
    """False for operators of the qdq dialect that compiled models do not contain."""

    @cached_property
    def body(self) -> Any:
        """The onnxscript function. It is parsed when it is first asked for, which takes a while."""
        return getattr(import_module(f"bqc.ops.bodies.{self.family}"), self.name)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.body.function_ir.inputs)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute names and defaults."""
        return {name: attr.value for name, attr in self.body.function_ir.attributes.items()}

    @property
    def summary(self) -> str:
        """First line of the body's docstring."""
        return (self.body.function.__doc__ or "").strip().splitlines()[0]


def _count(length: Dim, block: int, group: int) -> Dim:
    return Blocks(length, block, group).count if isinstance(length, int) else None


def _quantized(shape: Shape, block: int, group: int) -> Inferred:
    return [(I8, list(shape)), (I8, [*shape[:-1], _count(shape[-1], block, group)])]


def _out(shape: Shape, a: Attributes) -> Inferred:
    return _quantized(shape, a["out_block"], a["out_group"])


def _linear_shape(inputs: Sequence[Shape]) -> list[Dim]:
    return [*inputs[0][:-1], inputs[4][0]]


def _half_linear(inputs: Sequence[Shape], _: Attributes) -> Inferred:
    return [(F32, [*inputs[0][:-1], inputs[2][0]])]


def _index_linear(inputs: Sequence[Shape], _: Attributes) -> Inferred:
    return [(F32, [*inputs[0][:-1], inputs[3][0]])]


def _xnor_shape(inputs: Sequence[Shape]) -> list[Dim]:
    return [*inputs[0][:-1], inputs[3][0]]


def _bits(shape: Sequence[Dim]) -> Inferred:
    return [(U8, [*shape[:-1], -(-shape[-1] // 8) if isinstance(shape[-1], int) else None])]


def _values(shape: Shape, heads: int, block: int) -> Inferred:
    width = shape[-1]
    span = width // heads if isinstance(width, int) else 0
    return [(I8, list(shape)), (I8, [shape[0], _count(width, block, span)])]


def _heads_quantized(shape: Shape, heads: int, block: int) -> Inferred:
    width = shape[-1]
    return _quantized(shape, block, width // heads if isinstance(width, int) else 0)


def _ragged_values(inputs: Sequence[Shape], a: Attributes) -> Inferred:
    sequences = inputs[2][0] - 1 if isinstance(inputs[2][0], int) else None
    codes, (kind, counts) = _heads_quantized(inputs[0], a["heads"], a["block"])
    return [codes, (kind, [sequences, counts[-1]])]


def _embedding_shape(inputs: Sequence[Shape]) -> list[Dim]:
    return [*inputs[0], inputs[9][0]]


def _gathered(inputs: Sequence[Shape], a: Attributes) -> Inferred:
    return [(F32, [*inputs[0], a["columns"]])]


def _same(inputs: Sequence[Shape], _: Attributes) -> Inferred:
    return [(F32, list(inputs[0]))]


_ALL = (
    Operator(
        "BlockQuantize",
        "elementary",
        reference.block_quantize,
        lambda i, a: _quantized(i[0], a["block"], a["group"]),
    ),
    Operator("BlockDequantize", "elementary", reference.block_dequantize, _same),
    Operator(
        "BlockQuantizeValues",
        "linear",
        reference.block_quantize_values,
        lambda i, a: _values(i[0], a["heads"], a["block"]),
    ),
    Operator(
        "StaticQuantize",
        "static",
        static_reference.static_quantize,
        lambda i, a: [*_quantized(i[0], a["block"], a["group"]), (F32, [1])],
    ),
    Operator(
        "StaticQuantizeValues",
        "static",
        static_reference.static_quantize_values,
        lambda i, a: _values(i[0], a["heads"], a["block"]),
    ),
    Operator("Gelu", "elementary", reference.gelu, _same),
    Operator("Tanh", "elementary", reference.tanh, _same),
    Operator("LayerNorm", "elementary", reference.layer_norm, _same),
    Operator("BlockLinear", "linear", reference.block_linear, lambda i, a: [(F32, _linear_shape(i))]),
    Operator(
        "BlockLinearQuantize",
        "linear",
        reference.block_linear_quantize,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "BlockLinearQuantizeValues",
        "linear",
        reference.block_linear_quantize_values,
        lambda i, a: _values(_linear_shape(i), a["heads"], a["out_block"]),
    ),
    Operator(
        "BlockLinearGelu",
        "linear",
        reference.block_linear_gelu,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "BlockLinearRelu",
        "linear",
        reference.block_linear_relu,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "BlockLinearAddNorm",
        "linear",
        reference.block_linear_add_norm,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "BlockDequantizeTiles",
        "linear",
        reference.block_dequantize_tiles,
        lambda i, a: [(F32, [a["columns"], a["rows"]])],
        has_kernel=False,
    ),
    Operator(
        "BlockScores",
        "attention",
        reference.block_scores,
        lambda i, a: [(F32, [i[0][0], a["heads"], i[0][1], i[2][1]])],
    ),
    Operator("MaskedSoftmax", "attention", reference.masked_softmax, lambda i, a: [(U8, list(i[0]))]),
    Operator(
        "SoftmaxDequantize",
        "attention",
        reference.softmax_dequantize,
        _same,
        has_kernel=False,
    ),
    Operator("BlockContext", "attention", reference.block_context, lambda i, a: [(F32, list(i[1]))]),
    Operator(
        "BlockAttention",
        "attention",
        reference.block_attention,
        lambda i, a: _heads_quantized(i[0], a["heads"], a["block"]),
    ),
    Operator("FloatAttention", "float_attention", float_reference.float_attention, _same),
    Operator(
        "RaggedBlockQuantizeValues",
        "ragged",
        ragged_reference.ragged_block_quantize_values,
        _ragged_values,
    ),
    Operator(
        "RaggedBlockAttention",
        "ragged",
        ragged_reference.ragged_block_attention,
        lambda i, a: _heads_quantized(i[0], a["heads"], a["block"]),
    ),
    Operator("RaggedFloatAttention", "ragged", ragged_reference.ragged_float_attention, _same),
    Operator(
        "BlockGather",
        "embedding",
        reference.block_gather,
        lambda i, a: [(F32, [*i[0], a["columns"]])],
    ),
    Operator(
        "BlockGatherTiles",
        "embedding",
        reference.block_gather_tiles,
        lambda i, a: [(F32, [*i[0], a["columns"]])],
    ),
    Operator(
        "EmbeddingLayerNorm",
        "embedding",
        reference.embedding_layer_norm,
        lambda i, a: _out(_embedding_shape(i), a),
    ),
    Operator(
        "EmbeddingLayerNormTiles",
        "embedding",
        reference.embedding_layer_norm_tiles,
        lambda i, a: _out(_embedding_shape(i), a),
    ),
    Operator(
        "SignDequantize",
        "signs",
        sign_reference.sign_dequantize,
        lambda i, _: [(F32, list(i[0][1:]))],
        has_kernel=False,
    ),
    Operator(
        "SignDequantizeTiles",
        "signs",
        sign_reference.sign_dequantize_tiles,
        lambda i, a: [(F32, [a["columns"], a["rows"]])],
        has_kernel=False,
    ),
    Operator("SignLinear", "signs", sign_reference.sign_linear, lambda i, a: [(F32, _linear_shape(i))]),
    Operator(
        "SignLinearQuantize",
        "signs",
        sign_reference.sign_linear_quantize,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "SignLinearQuantizeValues",
        "signs",
        sign_reference.sign_linear_quantize_values,
        lambda i, a: _values(_linear_shape(i), a["heads"], a["out_block"]),
    ),
    Operator(
        "SignLinearGelu",
        "signs",
        sign_reference.sign_linear_gelu,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "SignLinearRelu",
        "signs",
        sign_reference.sign_linear_relu,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "SignLinearAddNorm",
        "signs",
        sign_reference.sign_linear_add_norm,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "SignGather",
        "signs",
        sign_reference.sign_gather,
        lambda i, a: [(F32, [*i[0], a["columns"]])],
    ),
    Operator(
        "SignEmbeddingLayerNorm",
        "signs",
        sign_reference.sign_embedding_layer_norm,
        lambda i, a: _out(_embedding_shape(i), a),
    ),
    Operator(
        "SparseDequantize",
        "sparse",
        sparse_reference.sparse_dequantize,
        lambda i, _: [(F32, list(i[0]))],
        has_kernel=False,
    ),
    Operator(
        "SparseDequantizeTiles",
        "sparse",
        sparse_reference.sparse_dequantize_tiles,
        lambda i, a: [(F32, [a["columns"], a["rows"]])],
        has_kernel=False,
    ),
    Operator(
        "SparseLinear",
        "sparse",
        sparse_reference.sparse_linear,
        lambda i, a: [(F32, _linear_shape(i))],
    ),
    Operator(
        "SparseLinearQuantize",
        "sparse",
        sparse_reference.sparse_linear_quantize,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "SparseLinearQuantizeValues",
        "sparse",
        sparse_reference.sparse_linear_quantize_values,
        lambda i, a: _values(_linear_shape(i), a["heads"], a["out_block"]),
    ),
    Operator(
        "SparseLinearGelu",
        "sparse",
        sparse_reference.sparse_linear_gelu,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "SparseLinearRelu",
        "sparse",
        sparse_reference.sparse_linear_relu,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator(
        "SparseLinearAddNorm",
        "sparse",
        sparse_reference.sparse_linear_add_norm,
        lambda i, a: _out(_linear_shape(i), a),
    ),
    Operator("HalfRound", "half", half_reference.half_round, _same),
    Operator("HalfDequantize", "half", half_reference.half_dequantize, _same, has_kernel=False),
    Operator(
        "HalfDequantizeTiles",
        "half",
        half_reference.half_dequantize_tiles,
        lambda i, a: [(F32, [a["columns"], a["rows"]])],
        has_kernel=False,
    ),
    Operator("HalfLinear", "half", half_reference.half_linear, _half_linear),
    Operator("HalfLinearGelu", "half", half_reference.half_linear_gelu, _half_linear),
    Operator("HalfLinearRelu", "half", half_reference.half_linear_relu, _half_linear),
    Operator("HalfLinearAddNorm", "half", half_reference.half_linear_add_norm, _half_linear),
    Operator("HalfGather", "half", half_reference.half_gather, _gathered),
    Operator("HalfGatherTiles", "half", half_reference.half_gather_tiles, _gathered),
    Operator("IndexDequantize", "half", half_reference.index_dequantize, _same, has_kernel=False),
    Operator(
        "IndexDequantizeTiles",
        "half",
        half_reference.index_dequantize_tiles,
        lambda i, a: [(F32, [a["columns"], a["rows"]])],
        has_kernel=False,
    ),
    Operator("IndexLinear", "half", half_reference.index_linear, _index_linear),
    Operator("IndexLinearGelu", "half", half_reference.index_linear_gelu, _index_linear),
    Operator("IndexLinearRelu", "half", half_reference.index_linear_relu, _index_linear),
    Operator("IndexLinearAddNorm", "half", half_reference.index_linear_add_norm, _index_linear),
    Operator("IndexGather", "half", half_reference.index_gather, _gathered),
    Operator("IndexGatherTiles", "half", half_reference.index_gather_tiles, _gathered),
    Operator("Binarize", "xnor", xnor_reference.binarize, lambda i, _: _bits(i[0])),
    Operator("BinarizeCodes", "xnor", xnor_reference.binarize_codes, lambda i, _: _bits(i[0])),
    Operator(
        "BinaryDequantize",
        "xnor",
        xnor_reference.binary_dequantize,
        lambda i, a: [(F32, [*i[0][:-1], a["columns"]])],
        has_kernel=False,
    ),
    Operator(
        "XnorDequantize",
        "xnor",
        xnor_reference.xnor_dequantize,
        lambda i, _: [(F32, list(i[0]))],
        has_kernel=False,
    ),
    Operator(
        "XnorDequantizeTiles",
        "xnor",
        xnor_reference.xnor_dequantize_tiles,
        lambda i, a: [(F32, [a["columns"], a["rows"]])],
        has_kernel=False,
    ),
    Operator("XnorLinear", "xnor", xnor_reference.xnor_linear, lambda i, a: [(F32, _xnor_shape(i))]),
    Operator(
        "XnorLinearBinarize",
        "xnor",
        xnor_reference.xnor_linear_binarize,
        lambda i, a: _bits(_xnor_shape(i)),
    ),
    Operator(
        "XnorLinearAddNorm",
        "xnor",
        xnor_reference.xnor_linear_add_norm,
        lambda i, a: _out(_xnor_shape(i), a),
    ),
)

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in _ALL}
"""Every operator by name."""

"""Tensor elements as numbers in text, and back to bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["byte_size", "elements", "encode", "encode_splat", "float32", "float_literal", "is_splat"]


def elements(tensor: ir.TensorProtocol) -> list[str] | None:
    """The elements as numbers in row-major order; None where numbers cannot say the same bits (NaN payloads,
    complex numbers)."""
    dtype = tensor.dtype
    if dtype in _COMPLEX:
        return None
    flat = np.asarray(tensor.numpy()).reshape(-1)
    if dtype.is_floating_point():
        wide = flat if dtype in _NUMPY_FLOATS else flat.astype(np.float32)
        texts = [float_literal(x) for x in wide]
    else:
        texts = [str(int(x)) for x in flat]
    return texts if encode(dtype, texts) == tensor.tobytes() else None


def encode(dtype: ir.DataType, texts: Sequence[str]) -> bytes:
    """Packed little-endian bytes of elements given as numbers.

    Raises ValueError with a message for what is no number of the type.
    """
    if dtype in _COMPLEX:
        raise ValueError(f'{dtype.name.lower()} has no numbers; write raw "..."')
    if dtype.is_floating_point():
        array = _floats(texts, dtype.numpy(), dtype.name.lower())
    else:
        array = np.array([_integer(text, dtype) for text in texts], dtype.numpy())
    return ir.Tensor(array, dtype=dtype).tobytes()


def encode_splat(dtype: ir.DataType, text: str, size: int) -> bytes:
    """`encode` of ``size`` times the same number."""
    each = 8 // math.gcd(8, dtype.bitwidth)  # elements in whole bytes
    return encode(dtype, [text] * each) * (size // each) + encode(dtype, [text] * (size % each))


def byte_size(dtype: ir.DataType, shape: Sequence[int]) -> int:
    """Bytes of a tensor; elements of less than a byte are packed."""
    return -(-math.prod(shape) * dtype.bitwidth // 8)


def float_literal(x: np.floating[Any]) -> str:
    """The shortest decimal that is read as the same number; always with a point or an exponent."""
    text = str(x)
    return text if not text.lstrip("-").isdigit() else f"{text}.0"


def float32(text: str) -> float:
    """The float32 number that the text says. Raises ValueError for one beyond its range."""
    return float(_floats([text], np.dtype(np.float32), "float")[0])


def is_splat(tensor: ir.TensorProtocol) -> bool:
    """Are all elements the same bits?"""
    flat = np.ascontiguousarray(np.asarray(tensor.numpy()).reshape(-1))
    raw = flat.view(np.uint8).reshape(len(flat), -1)
    # Most weights differ at once; only what looks equal is compared in full.
    return bool((raw[:2] == raw[0]).all()) and bool((raw == raw[0]).all())


_COMPLEX = (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)
_NUMPY_FLOATS = (ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)


def _floats(texts: Sequence[str], dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    wide = np.array([float(text) for text in texts], np.float64)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    for i in np.flatnonzero(np.isfinite(wide) & ~np.isfinite(array.astype(np.float64))).tolist():
        raise ValueError(f"{texts[i]} is beyond {name}")
    return array


def _integer(text: str, dtype: ir.DataType) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text} is no whole number") from None
    low, high = (0, 1) if dtype == ir.DataType.BOOL else (int(dtype.min), int(dtype.max))
    if not low <= value <= high:
        raise ValueError(f"{text} is beyond {dtype.name.lower()} ({low} to {high})")
    return value

"""Models in memory, run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

import bqc
from bqc.passes.attach_functions import AttachFunctions

__all__ = ["first_output"]


def first_output(model: ir.Model, feeds: Mapping[str, Any], *, kernels: bool = False) -> Any:
    """First output in plain ONNX Runtime, or with kernels: the same bits from a session that is made much faster."""
    AttachFunctions()(model)
    options = ort.SessionOptions()
    if kernels:
        bqc.register(options)
    data = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]

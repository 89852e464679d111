"""ONNX Runtime as an exporter: what its optimizers write from a float model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

__all__ = ["EXPORTERS", "HALF_EXPORTERS", "half", "optimized", "session_optimized"]


def optimized(path: Path, level: int = 0, *, heads: int = 4, hidden: int = 48, **fusion: Any) -> Path:
    """`onnxruntime.transformers.optimizer` for BERT, as optimum calls it too; `fusion` sets fusion options.

    It does not find the sizes of every export itself; the defaults are those of the test models.
    """
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    options = pytest.importorskip("onnxruntime.transformers.fusion_options").FusionOptions("bert")
    for name, value in fusion.items():
        setattr(options, name, value)
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    optimised = optimizer.optimize_model(
        str(path), "bert", heads, hidden, optimization_options=options, opt_level=level
    )
    target = path.with_name(f"{path.stem}.opt{level}{''.join(f'-{k}-{v}' for k, v in fusion.items())}.onnx")
    optimised.save_model_to_file(str(target))
    return target


def raw_mask(path: Path) -> Path:
    """The 0/1 mask as it is; by default the optimizer makes lengths of it, one number a sequence."""
    formats = pytest.importorskip("onnxruntime.transformers.fusion_options").AttentionMaskFormat
    return optimized(path, attention_mask_format=formats.AttentionMask)


def multi_head(path: Path) -> Path:
    """MultiHeadAttention instead of Attention."""
    return optimized(path, use_multi_head_attention=True)


def session_optimized(path: Path, level: str = "extended") -> Path:
    """What a session saves of its optimized graph: `SessionOptions.optimized_model_filepath`."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    target = path.with_name(f"{path.stem}.session-{level}.onnx")
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return target


def half(path: Path, keep_io_types: bool = True, blocked: Sequence[str] = ()) -> Path:
    """ONNX Runtime's conversion to float16, except of `blocked` operators."""
    convert = pytest.importorskip("onnxruntime.transformers.float16").convert_float_to_float16
    options = {"op_block_list": list(blocked)} if blocked else {}
    model = convert(onnx.load(path), keep_io_types=keep_io_types, **options)
    target = path.with_name(f"{path.stem}.fp16{'-io32' * keep_io_types}.onnx")
    onnx.save(model, target)
    return target


EXPORTERS: dict[str, Callable[[Path], Path]] = {
    "ort-optimizer-0": partial(optimized, level=0),
    "ort-optimizer-1": partial(optimized, level=1),
    "ort-optimizer-2": partial(optimized, level=2),
    "ort-optimizer-99": partial(optimized, level=99),
    "ort-raw-mask": raw_mask,
    "ort-multi-head": multi_head,
    "ort-session-basic": partial(session_optimized, level="basic"),
    "ort-session-extended": session_optimized,
    "ort-session-all": partial(session_optimized, level="all"),
}
"""From the path of a float model to the path of the re-exported one, written beside it."""

HALF_EXPORTERS: dict[str, Callable[[Path], Path]] = {
    "ort-fp16": partial(half, keep_io_types=False),
    "ort-fp16-io32": half,
}
"""The same for those that round weights to float16."""

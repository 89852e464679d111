"""Passes: one file each, found by name, run the same way from Python, from the command line and in tests.

A pass is a frozen dataclass on ``onnx_ir.passes``: its fields are its options, its docstring shows before
and after. Third parties add theirs through the entry point group ``bqc.passes``.
"""

from __future__ import annotations

import importlib
import re
from importlib.metadata import entry_points
from typing import Any

__all__ = ["names", "pass_class", "pass_name"]

_MODULES = (
    "import_functions",
    "import_mend",
    "import_opset",
    "import_precision",
    "import_fold",
    "import_branches",
    "import_sums",
    "import_contrib_embedding",
    "import_contrib_matmul",
    "import_contrib_gelu",
    "import_contrib_norm",
    "import_contrib_attention",
    "import_contrib",
    "import_shared",
    "import_weights",
    "import_pool",
    "import_later",
    "import_layernorm",
    "import_layernorm_probe",
    "import_gelu",
    "import_einsum",
    "import_gemm",
    "import_flat",
    "import_bias",
    "import_linear",
    "import_lookup",
    "import_mask",
    "import_packed",
    "import_padding",
    "import_heads",
    "import_attention",
    "import_positions",
    "import_embedding",
    "import_ids",
    "import_shapes",
    "import_range",
    "import_residual",
    "import_head",
    "import_types",
    "import_canonicalize",
    "annotate_anatomy",
    "slim_width",
    "relu_ffn",
    "annotate_sensitivity",
    "plan_bbct",
    "plan_binarybert",
    "plan_recipe",
    "split_ternary",
    "quantize_weights",
    "binarize_inputs",
    "quantize_activations",
    "pack_weights",
    "fold_embedding",
    "fold_matmul",
    "fold_gelu",
    "fold_layernorm",
    "fold_softmax",
    "fold_attention",
    "fold_float_attention",
    "fold_head",
    "fold_single",
    "hoist_gather",
    "unpad",
    "narrow_parameters",
    "attach_functions",
    "finalize",
)
_SPELLING = {"layernorm": "LayerNorm", "matmul": "MatMul"}
_GROUP = "bqc.passes"


def names() -> list[str]:
    """Every pass name: those of bqc in pipeline order, then installed ones."""
    return [m.replace("_", "-") for m in _MODULES] + sorted(e.name for e in entry_points(group=_GROUP))


def pass_class(name: str) -> Any:
    """The class of a pass. Raises KeyError for an unknown name."""
    module = name.replace("-", "_")
    if module in _MODULES:
        parts = [_SPELLING.get(part, part.capitalize()) for part in module.split("_")]
        return getattr(importlib.import_module(f"bqc.passes.{module}"), "".join(parts))
    for entry in entry_points(group=_GROUP):
        if entry.name == name:
            return entry.load()
    raise KeyError(name)


def pass_name(one: object) -> str:
    """``FoldGelu()`` -> ``fold-gelu``."""
    spelled = type(one).__name__
    for plain, special in _SPELLING.items():
        spelled = spelled.replace(special, plain.capitalize())
    return re.sub(r"(?<!^)(?=[A-Z])", "-", spelled).lower()

"""bqc: compile BERT-family encoders to small, fast, plain ONNX.

>>> import bqc
>>> bqc.compile("model.onnx", scheme="bbct")             # doctest: +SKIP
>>> session = bqc.session("model.bqc.onnx")              # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bqc.errors import BqcError

if TYPE_CHECKING:
    from bqc.compiler import CompileResult, compile
    from bqc.runtime.library import library_path, register
    from bqc.runtime.session import session

__all__ = [
    "BqcError",
    "CompileResult",
    "compile",
    "library_path",
    "register",
    "session",
]

_HOMES = {
    "CompileResult": "bqc.compiler",
    "compile": "bqc.compiler",
    "library_path": "bqc.runtime.library",
    "register": "bqc.runtime.library",
    "session": "bqc.runtime.session",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    # Importing bqc must stay cheap: onnxruntime and onnx load when they are used.
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'bqc' has no attribute {name!r}")

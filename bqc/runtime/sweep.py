"""Settings that must not change a bit: ONNX Runtime's optimisation levels and the kernels' instruction sets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnxruntime

from bqc.errors import BqcError
from bqc.runtime.library import LEVEL_VARIABLE, LEVELS
from bqc.runtime.native import native
from bqc.runtime.session import session

__all__ = ["ORT_LEVELS", "isa_levels", "isa_session", "ort_level_session"]

_GRAPH_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
ORT_LEVELS = tuple(_GRAPH_LEVELS)
"""Names of ONNX Runtime's graph optimisation levels, lowest first."""


def ort_level_session(
    path: str | Path, level: str, threads: int | None = None
) -> onnxruntime.InferenceSession:
    """A session at one graph optimisation level.

    Raises:
        BqcError: the level is none of `ORT_LEVELS`, or the model cannot be loaded.
    """
    if level not in _GRAPH_LEVELS:
        raise BqcError(f"{level} is no optimisation level of ONNX Runtime; use {', '.join(ORT_LEVELS)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = _GRAPH_LEVELS[level]
    return session(path, options=options, threads=threads)


def isa_levels(wanted: Sequence[str]) -> list[str]:
    """The instruction sets to try: those named, or for ``all`` every one that this CPU and library have.

    Raises:
        BqcError: there is no library, or one that is named is unknown or does not run here.
    """
    runnable = [level for level in LEVELS if _runs(level)]
    for level in wanted:
        if level != "all" and level not in runnable:
            known = "does not run on this CPU" if level in LEVELS else "is no instruction set level"
            raise BqcError(f"{level} {known}; there are {', '.join(runnable)}")
    return runnable if "all" in wanted else list(dict.fromkeys(wanted))


def isa_session(path: str | Path, level: str, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A session whose kernels use at most one instruction set.

    Raises:
        BqcError: the model cannot be loaded, or a node has no kernel.
    """
    with _capped(level):  # kernels are chosen when the session is created
        return session(path, strict=True, threads=threads)


def _runs(level: str) -> bool:
    with _capped(level):
        return native().isa() == level


@contextmanager
def _capped(level: str) -> Iterator[None]:
    before = os.environ.get(LEVEL_VARIABLE)
    os.environ[LEVEL_VARIABLE] = level
    try:
        yield
    finally:
        if before is None:
            del os.environ[LEVEL_VARIABLE]
        else:
            os.environ[LEVEL_VARIABLE] = before

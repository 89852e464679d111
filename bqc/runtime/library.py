"""Where the kernel library lies, and how a session is given it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bqc.errors import BqcError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["LIBRARY_NAME", "LIBRARY_VARIABLE", "check_environment", "library_path", "register"]

LEVEL_VARIABLE = "BQC_MAX_ISA"
"""Environment variable that caps the kernels' instruction set."""
LEVELS = (
    "portable",
    *{"x86_64": ("avx2", "avx512", "avx512_vbmi"), "aarch64": ("neon", "neon_dot")}.get(
        platform.machine(), ()
    ),
)
"""Its values on this architecture, slowest first."""

FP16_VARIABLE = "BQC_FP16_ARITHMETIC"
"""Environment variable that says how weights of fp16 numbers are multiplied."""
FP16_ARITHMETICS = ("fp32", "bf16")
"""Its values; the first is the default, and the only one whose results are the same on every CPU."""

LIBRARY_VARIABLE = "BQC_LIBRARY"
"""Environment variable with the path of a library to use instead."""
LIBRARY_NAME = "libbqc_custom_ops.so"

# ONNX Runtime refuses the same library twice on one SessionOptions and cannot be asked what it holds; a
# configuration entry of our own is stored on the very object and dies with it.
_REGISTERED = "bqc.library"


def library_path() -> str:
    """Absolute path of the ONNX Runtime custom-op library with bqc's kernels.

    Hand it to ``SessionOptions.register_custom_ops_library`` (or its equivalent in any language). The
    environment variable ``BQC_LIBRARY`` overrides the search.

    Raises:
        BqcError: there is no library (the message says how to get one), ``BQC_MAX_ISA`` is no level or
            ``BQC_FP16_ARITHMETIC`` no arithmetic.
    """
    check_environment()
    override = os.environ.get(LIBRARY_VARIABLE)
    if override:
        if not Path(override).is_file():
            raise BqcError(
                f"{LIBRARY_VARIABLE} names {override}, which is not a file; unset it or give the library's path"
            )
        return str(Path(override).resolve())
    for candidate in _candidates():
        if candidate.is_file():
            return str(candidate.resolve())
    raise BqcError(
        f"the kernel library {LIBRARY_NAME} is not installed: run 'pip install .' in the source tree "
        "or set BQC_LIBRARY to the file"
    )


def register(options: onnxruntime.SessionOptions) -> None:
    """Register the kernel library on ``options``; a second call on the same object does nothing.

    Raises:
        BqcError: no library was found, or ONNX Runtime refuses it.
    """
    try:
        options.get_session_config_entry(_REGISTERED)
        return
    except RuntimeError:
        path = library_path()
    try:
        options.register_custom_ops_library(path)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        raise BqcError(f"ONNX Runtime cannot load {path}: {error}") from error
    options.add_session_config_entry(_REGISTERED, path)


def check_environment() -> None:
    """Refuse values of environment variables that the library would not know, and ignore.

    Raises:
        BqcError: ``BQC_MAX_ISA`` is no level or ``BQC_FP16_ARITHMETIC`` no arithmetic.
    """
    for variable, what, values in (
        (LEVEL_VARIABLE, "instruction set level", LEVELS),
        (FP16_VARIABLE, "arithmetic of fp16 weights", FP16_ARITHMETICS),
    ):
        value = os.environ.get(variable)
        if value and value not in values:
            raise BqcError(f"{variable}={value} is no {what}; use {', '.join(values)}")


def _candidates() -> Iterator[Path]:
    """Places to look, best first: every folder of the package, then the build folders of a source tree."""
    import bqc

    for root in bqc.__path__:
        yield Path(root) / "lib" / LIBRARY_NAME
    tree = Path(__file__).resolve().parents[2]
    if (tree / "pyproject.toml").is_file():
        built = (tree / "build").rglob(LIBRARY_NAME)
        yield from sorted(built, key=lambda path: path.stat().st_mtime, reverse=True)

"""The kernel library's own questions and answers, through ctypes."""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from bqc.errors import BqcError
from bqc.runtime.library import library_path

__all__ = ["Arithmetic", "Family", "Kernel", "NativeLibrary", "Support", "native"]


@dataclass(frozen=True)
class Kernel:
    """One kernel that ONNX Runtime created.

    Attributes:
        node: name of its node.
        op_type: operator.
        isa: ISA level.
        by: the instructions that do most of its work.
        reason: why these, and no faster level.
    """

    node: str
    op_type: str
    isa: str
    by: str = ""
    reason: str = ""


Arithmetic = Literal["int8", "fp32", "bits"]
"""Products of 8-bit codes into 32-bit integers, or of floats."""


@dataclass(frozen=True)
class Support:
    """What an ISA level does for a family: by which instructions, and for which widths of weights, if it has any."""

    by: str
    weight_bits: tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """Operators whose kernels work alike, and ISA level -> what it supports of them."""

    name: str
    operators: tuple[str, ...]
    levels: dict[str, Support]


class NativeLibrary:
    """The C interface of the kernel library at ``path``.

    Raises:
        BqcError: the file cannot be loaded or lacks the interface (it belongs to another version).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._dll = ctypes.CDLL(path)
            for name in ("BqcBuildInfo", "BqcIsa", "BqcCpuFeatures", "BqcKernelFamilies"):
                getattr(self._dll, name).restype = ctypes.c_char_p
            self._dll.BqcKernelNames.restype = ctypes.c_long
            self._dll.BqcKernelNames.argtypes = [ctypes.c_char_p, ctypes.c_long]
            self._dll.BqcKernelReset.restype = None
            self._dll.BqcPeak.restype = ctypes.c_double
            self._dll.BqcPeak.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_double]
            self._dll.BqcSelfTest.restype = ctypes.c_int
            self._dll.BqcSelfTest.argtypes = [ctypes.c_char_p, ctypes.c_long]
        except (OSError, AttributeError) as error:
            raise BqcError(f"{path} is not a usable kernel library: {error}") from error

    def build_info(self) -> dict[str, Any]:
        """Version, API level and compiled ISA levels, as the library states them."""
        return dict(json.loads(self._dll.BqcBuildInfo()))

    def isa(self) -> str:
        """The ISA level that would run on this CPU under the present environment."""
        return str(self._dll.BqcIsa().decode())

    def cpu_features(self) -> list[str]:
        """The CPU features the library found."""
        return [str(name) for name in json.loads(self._dll.BqcCpuFeatures())]

    def families(self) -> list[Family]:
        """The operators by family, and what each compiled ISA level supports of them."""
        return [
            Family(
                found["name"],
                tuple(found["operators"]),
                {
                    level: Support(support["by"], tuple(support.get("weight_bits", ())))
                    for level, support in found["levels"].items()
                },
            )
            for found in json.loads(self._dll.BqcKernelFamilies())
        ]

    def peak(self, level: str, arithmetic: Arithmetic, seconds: float) -> float:
        """GMAC/s that a loop of a level's sums of products on registers reaches on the calling thread.

        0 for a level that this library lacks or this CPU cannot run. Takes about ``seconds``, without the lock
        of the interpreter.
        """
        return float(self._dll.BqcPeak(level.encode(), arithmetic.encode(), seconds))

    def reset_kernels(self) -> None:
        """Forget the kernels created so far."""
        self._dll.BqcKernelReset()

    def kernels(self) -> list[Kernel]:
        """Kernels created, in this process, since the last reset."""
        buffer = ctypes.create_string_buffer(self._dll.BqcKernelNames(None, 0))
        self._dll.BqcKernelNames(buffer, len(buffer))
        rows = (line.split("\t") for line in buffer.value.decode().splitlines() if line)
        return [Kernel(*row[:5]) for row in rows if len(row) >= 3]

    def self_test(self) -> tuple[bool, list[str]]:
        """Run the built-in checks: whether all passed, and one line for each."""
        buffer = ctypes.create_string_buffer(1 << 16)
        status = self._dll.BqcSelfTest(buffer, len(buffer))
        return status == 0, buffer.value.decode().splitlines()


@cache
def _load(path: str) -> NativeLibrary:
    return NativeLibrary(path)


def native() -> NativeLibrary:
    """The installed kernel library.

    Raises:
        BqcError: there is none, or it cannot be loaded.
    """
    return _load(library_path())

"""One call from a file to a ready ONNX Runtime session, with a report of kernels that did not come."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from bqc.errors import BqcError
from bqc.runtime.library import LIBRARY_VARIABLE, check_environment, register
from bqc.runtime.native import Kernel, native
from bqc.runtime.scan import NodeName, bqc_nodes

__all__ = ["MissingKernelWarning", "created_kernels", "session"]

# The library counts the kernels of the whole process, so two sessions made at once would read each other's.
_creating = threading.Lock()

_ORT_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


class MissingKernelWarning(RuntimeWarning):
    """Some nodes run as function bodies in plain ONNX Runtime: the same bits, slower."""


def session(
    path: str | Path,
    *,
    strict: bool = False,
    options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int | None = None,
    library: bool = True,
) -> onnxruntime.InferenceSession:
    """An ``onnxruntime.InferenceSession`` on a float or compiled model, with bqc's kernels registered.

    Args:
        path: the ``.onnx`` file; its external data must lie where the file says.
        strict: raise instead of warn when a node got no kernel of the library.
        options: session options to use; ``threads`` and the library registration are set on them.
        providers: ONNX Runtime execution providers.
        threads: size of the intra-operator thread pool; None leaves it to ``options``.
        library: False runs the function bodies in plain ONNX Runtime: the same bits, slower, no warning.

    Raises:
        BqcError: no such file, not a model, external data that is missing or too short, a library that
            ``BQC_LIBRARY`` names but is not there, or, with ``strict``, missing kernels.
    """
    file = _model_file(path)
    if options is None:
        options = _quiet_options()
    if threads is not None:
        options.intra_op_num_threads = threads
    nodes = bqc_nodes(file)
    if not nodes or not library:
        return _create(file, options, providers)
    check_environment()
    try:
        register(options)
    except BqcError as error:
        # Who names a library wants that one; without a name, running without is the documented fallback.
        named = os.environ.get(LIBRARY_VARIABLE)
        if strict or (named and not Path(named).is_file()):
            raise
        _warn(f"{file}: {error}; its {len(nodes)} {_plural(nodes)} run as plain ONNX Runtime graphs, slower")
        return _create(file, options, providers)
    created, kernels = _create_noting(file, options, providers)
    missing = _missing(nodes, Counter(kernel.node for kernel in kernels))
    if missing:
        shown = ", ".join(f"{node.name or '(unnamed)'} ({node.op_type})" for node in missing[:5])
        rest = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        message = f"{file}: no kernel for {len(missing)} of {len(nodes)} {_plural(nodes)}: {shown}{rest}"
        if strict:
            raise BqcError(message)
        _warn(f"{message}; they run as plain ONNX Runtime graphs, slower")
    return created


def created_kernels(path: str | Path) -> list[Kernel]:
    """The kernels of the library that a session on a model file creates, one a node that has one.

    Raises:
        BqcError: as ``session``; also where there is no library.
    """
    file, options = _model_file(path), _quiet_options()
    register(options)
    return _create_noting(file, options, ("CPUExecutionProvider",))[1]


def _model_file(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        raise BqcError(f"{file} is a folder, not a model file" if file.is_dir() else f"{file}: no such file")
    if file.suffix == ".onnxtxt":
        raise BqcError(
            f"{file}: ONNX Runtime runs binary models only; write one: bqc opt {file} -p import-types -o model.onnx"
        )
    return file


def _quiet_options() -> onnxruntime.SessionOptions:
    """Errors come as exceptions, and a node that runs as its function body is reported by whoever asks."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def _create_noting(
    file: Path, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> tuple[onnxruntime.InferenceSession, list[Kernel]]:
    with _creating:
        native().reset_kernels()
        created = _create(file, options, providers)
        return created, native().kernels()


def _create(
    file: Path, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        raise BqcError(_refusal(file, str(error))) from error


def _refusal(file: Path, message: str) -> str:
    """What is wrong with a file that ONNX Runtime refused, in one line: its own message only where we know none."""
    line = _ORT_PREFIX.sub("", " ".join(message.split()))
    if (
        "Protobuf parsing failed" in line
        or "No graph was found" in line
        or "ModelProto does not have" in line
    ):
        return f"{file}: not an ONNX model, or a truncated one"
    from bqc.ir import load  # takes long to import, and most files are right

    try:
        load(file)
    except BqcError as known:
        return str(known)
    return f"{file}: ONNX Runtime cannot load it: {line[:400]}"


def _missing(nodes: Sequence[NodeName], created: Counter[str]) -> list[NodeName]:
    """Nodes without a kernel. Names are unique in a compiled file; counting keeps unnamed ones honest."""
    left = Counter(created)
    missing = []
    for node in nodes:
        if left[node.name] > 0:
            left[node.name] -= 1
        else:
            missing.append(node)
    return missing


def _plural(nodes: Sequence[NodeName]) -> str:
    return "ai.bqc node" if len(nodes) == 1 else "ai.bqc nodes"


def _warn(message: str) -> None:
    warnings.warn(message, MissingKernelWarning, stacklevel=3)

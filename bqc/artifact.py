"""Writing a compiled model: aligned external data, everything or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.labels import save_labelled
from bqc.ir.load import data_files
from bqc.ir.skeleton import one_line
from bqc.staging import require_regular, staged, uninterrupted

__all__ = [
    "ALIGNMENT",
    "FORMAT_VERSION",
    "file_sha256",
    "output_path",
    "require_own_files",
    "require_writable",
    "tokenizer_files",
    "write",
]

FORMAT_VERSION = "1"
ALIGNMENT = 64
"""Bytes; ONNX Runtime maps the data file, and kernels read tiles in place."""

EXTERNAL_FROM = 256
"""Bytes from which an initializer goes to the data file."""
INLINE_LIMIT = 2**31 - 2**20
"""A protobuf message holds less than 2 GiB."""

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
_SIDE_FILES = ("config.json", *_TOKENIZER, "modules.json", "1_Pooling/config.json")


def output_path(source: Path, output: str | None, kind: str = "bqc") -> tuple[Path, bool]:
    """Where the model goes, and whether its folder gets the tokenizer and configuration too.

    ``None`` is ``NAME.<kind>.onnx`` beside the source, a name that ends in ``/`` or is a folder is
    ``DIR/NAME.<kind>.onnx`` with the source's side files, any other is the file itself.
    """
    name = f"{source.stem}.{kind}.onnx"
    if output is None:
        return source.with_name(name), False
    if not output:
        raise BqcError("the output has no name; give a .onnx file, or a folder written with a final /")
    path = Path(output)
    try:
        folder = output.endswith(("/", os.sep)) or path.is_dir()
    except OSError as error:
        raise BqcError(f"{output[:80]}: cannot be written: {error.strerror or error}") from None
    if folder:
        return path / name, True
    if path.suffix != ".onnx":
        raise BqcError(f"{output}: the output is a .onnx file, or a folder written with a final /")
    return path, False


def require_own_files(output: Path, source: Path | None, model: ir.Model) -> None:
    """Raise BqcError if writing ``output`` would replace ``source``, or a file that has weights of ``model``."""
    data = output.with_name(f"{output.name}.data")
    if source is not None and output.resolve() == source.resolve():
        raise BqcError(f"{output}: the output would overwrite the input; give another -o")
    for place in {output.resolve(), data.resolve()} & {file.resolve() for file in data_files(model)}:
        raise BqcError(
            f"{output}: writing it would overwrite {place.name}, which has the input's weights; give another -o"
        )


def require_writable(output: Path) -> None:
    """Raise BqcError if a file cannot be written there; leave no trace."""
    try:
        require_regular(output)
        # Folders that are missing are not made: another process may be about to write into them.
        with staged(next(folder for folder in output.absolute().parents if folder.exists())):
            pass
    except OSError as error:
        raise BqcError(f"{output}: cannot be written: {error.strerror or error}") from None


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files in a folder, by name."""
    return {name: (folder / name).read_bytes() for name in _TOKENIZER if (folder / name).is_file()}


def write(
    model: ir.Model,
    path: Path,
    *,
    single_file: bool = False,
    side_files_from: Path | None = None,
    side_files: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write the model; return the files written, the model first.

    Data goes to ``NAME.onnx.data`` at offsets that are multiples of 64, or inline with ``single_file``.
    Nothing is visible under the final names before the file has passed the ONNX checker. The tokenizer and
    configuration are copied from the folder ``side_files_from``, those in ``side_files`` with the content there. Raises
    BqcError if it cannot be written.
    """
    if single_file and (size := inline_bytes(model)) > INLINE_LIMIT:
        raise BqcError(
            f"{path}: {size / 2**30:.1f} GiB of weights do not fit one file; leave out --single-file"
        )
    try:
        with staged(path.parent) as folder:
            fresh, data = folder / path.name, folder / f"{path.name}.data"
            if single_file:
                save_labelled(model, fresh)
            else:
                with _external(model, data):
                    save_labelled(model, fresh)
            _check(path, fresh)
            beside = []
            if side_files_from is not None:
                beside = _copy_side_files(side_files_from, path.parent, folder, side_files or {})
            with uninterrupted():
                return _publish(folder, path, beside)
    except OSError as error:
        raise BqcError(f"{path}: cannot be written: {error.strerror or error}") from None


def _check(path: Path, fresh: Path) -> None:
    try:
        onnx.checker.check_model(str(fresh), full_check=True)
    except Exception as error:  # onnx has two kinds of its own, and raises others
        raise BqcError(
            f"{path}: not written, as it would not be valid ONNX: {one_line(error)}; does ONNX Runtime load the model "
            "that it is made from?"
        ) from error


def _publish(folder: Path, path: Path, side_files: list[str]) -> list[Path]:
    """Move everything from ``folder`` to its place beside ``path``.

    The model goes last, and an older one first, so that no model is ever seen with another one's data.
    """
    data = path.with_name(f"{path.name}.data")
    path.unlink(missing_ok=True)
    for name in side_files:
        (path.parent / name).parent.mkdir(exist_ok=True)
        os.replace(folder / name, path.parent / name)
    if (folder / data.name).exists():
        os.replace(folder / data.name, data)
        written = [path, data]
    else:
        data.unlink(missing_ok=True)
        written = [path]
    os.replace(folder / path.name, path)
    return written + [path.parent / name for name in side_files]


@contextmanager
def _external(model: ir.Model, data: Path) -> Iterator[None]:
    """Write the larger initializers to ``data``; meanwhile the model refers to them there."""
    # onnx_ir's own writer aligns to whole pages, which costs a third of a MiB in a BERT-base; kernels need 64 bytes.
    kept = []
    try:
        with data.open("wb") as file:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < EXTERNAL_FROM or isinstance(tensor, ir.StringTensor):
                    continue
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                offset = file.tell()
                file.write(tensor.tobytes())
                kept.append((value, tensor))
                value.const_value = ir.ExternalTensor(
                    data.name,
                    offset,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape([int(d) for d in tensor.shape.numpy()]),
                    name=value.name or "",
                    base_dir=data.parent,
                )
        yield
    finally:
        for value, tensor in kept:
            value.const_value = tensor


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def inline_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def _copy_side_files(source: Path, target: Path, folder: Path, own: Mapping[str, bytes]) -> list[str]:
    """Copies in ``folder`` of the source's tokenizer and configuration, unless it is the target itself."""
    copied = []
    for name in _SIDE_FILES:
        known = (source / name).is_file()
        if not (known or name in own) or (known and (source / name).resolve() == (target / name).resolve()):
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        if name in own:
            (folder / name).write_bytes(own[name])
        else:
            shutil.copyfile(source / name, folder / name)
        copied.append(name)
    return copied

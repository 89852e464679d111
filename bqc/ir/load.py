"""Opening ONNX files that nobody has vouched for.

Everything that can be wrong with the bytes is found here, before anything is allocated from sizes the file
claims: later code may trust the model. External data stays on disk and is mapped when a weight is read.
docs/robustness.md says what is refused.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.inference import quiet
from bqc.ir.labels import put_labels, take_labels
from bqc.ir.soundness import all_tensors, check_graphs
from bqc.ir.text import SUFFIX, from_text

__all__ = ["FORMAT_KEY", "STDIN", "data_files", "is_compiled", "load", "read_text"]

FORMAT_KEY = "bqc.format_version"
STDIN = "-"
"""The path that stands for standard input."""

_DATA = "bqc.data_files"
_PROTOBUF_LIMIT = (1 << 31) - 1
_TEXT_STARTS = (b"<", b"/", b"#")
"""How a text begins, and no protobuf message of a model does."""
_IN_MEMORY = 1024
"""Bytes up to which external tensors are read at once: shapes and scalars that passes look at again and again."""
_REPEATS = 64
"""How often the weights of a model may claim the bytes of its data files: tied and shared weights do, a bit."""


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model file, binary or `.onnxtxt`; external data is checked and stays lazily mapped.

    The path ``-`` is standard input, of which the first byte shows whether it is text; external data of a model
    that comes this way lies in the current folder.

    Raises:
        BqcError: missing file, directory, not ONNX, truncated, a graph that cannot be right (names twice,
            cycles, functions that call themselves), tensors whose bytes and shapes disagree, or external data
            that is missing, outside the model's folder, or shorter than the model says. Of text: the line and
            column, and what was expected there.
    """
    file = Path(path)
    if os.fspath(path) == STDIN:
        data = sys.stdin.buffer.read(_PROTOBUF_LIMIT + 1)
        if data.lstrip()[:1] in _TEXT_STARTS:
            return from_text(_decoded(data, file), "<stdin>")
        return _from_proto(file, lambda: onnx.load_from_string(data))
    _check_file(file)
    if file.suffix == SUFFIX:
        return from_text(read_text(file), str(file))
    return _from_proto(file, lambda: onnx.load(file, load_external_data=False))


def read_text(file: Path) -> str:
    """The contents of an `.onnxtxt` file, or of standard input. Raises BqcError."""
    if os.fspath(file) == STDIN:
        return _decoded(sys.stdin.buffer.read(_PROTOBUF_LIMIT), file)
    _check_file(file)
    try:
        return _decoded(file.read_bytes(), file)
    except OSError as error:
        raise BqcError(f"{file}: cannot be read ({error.strerror or error})") from error


def _decoded(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BqcError(
            f"{file}: not UTF-8 text (byte {error.start}); a binary model is a .onnx file"
        ) from None


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise BqcError(f"{file}: is a directory; give the .onnx file in it")
    if not file.is_file():
        raise BqcError(f"{file}: no such file")
    if file.stat().st_size > _PROTOBUF_LIMIT:
        raise BqcError(
            f"{file}: larger than 2 GB, which no ONNX file can be; keep the weights in external data"
        )


def _from_proto(file: Path, read: Callable[[], onnx.ModelProto]) -> ir.Model:
    try:
        proto = read()
    except OSError as error:
        raise BqcError(f"{file}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        raise BqcError(f"{file}: not an ONNX model, or truncated; export or download it again") from error
    if not proto.opset_import or not (proto.graph.node or proto.graph.output):
        raise BqcError(f"{file}: not an ONNX model, or truncated; export or download it again")
    if proto.ir_version > onnx.IR_VERSION:
        raise BqcError(
            f"{file}: written for a later ONNX (IR version {proto.ir_version}, the installed onnx knows "
            f"{onnx.IR_VERSION}); upgrade onnx, or export for an earlier one"
        )
    try:
        check_graphs(proto)
        data = _check_tensors(file, proto)
        labels = take_labels(proto)
        with quiet():
            model = ir.from_proto(proto)
        put_labels(model, labels)
        _read_or_map(model, file.parent, data)
        model.meta[_DATA] = set(data.values())
    except BqcError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BqcError(f"{file}: the model is damaged ({line})") from error
    return model


def data_files(model: ir.Model) -> set[Path]:
    """The files beside the model's own that its weights were read from, or still are."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    mapped = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return mapped | set(model.meta.get(_DATA, ()))


def is_compiled(model: ir.Model) -> bool:
    """Was this model written by `bqc compile`?"""
    return FORMAT_KEY in model.metadata_props


def _check_tensors(file: Path, proto: onnx.ModelProto) -> dict[str, Path]:
    """Every tensor's bytes against its shape; returns where each external location really is."""
    places: dict[str, Path] = {}
    claimed = 0
    for tensor in all_tensors(proto):
        where = f"{file}: weight {tensor.name!r}"
        wanted = _byte_size(where, tensor)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            claimed += wanted
            _check_external(where, tensor, wanted, file, places)
        else:
            _check_inline(where, tensor, wanted)
    stored = sum(place.stat().st_size for place in set(places.values()))
    if claimed > _REPEATS * stored:
        raise BqcError(
            f"{file}: its weights claim {claimed} bytes of data files that have {stored}; refusing to read it"
        )
    return places


def _check_external(
    where: str, tensor: onnx.TensorProto, wanted: int, file: Path, places: dict[str, Path]
) -> None:
    if tensor.data_type == onnx.TensorProto.STRING:
        raise BqcError(f"{where} is text in external data, which ONNX does not have; the model is damaged")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in places:
        places[location] = _place(where, file, location)
    size = places[location].stat().st_size
    offset = _number(where, entries, "offset", 0)
    length = _number(where, entries, "length", wanted)
    if length != wanted:
        raise BqcError(
            f"{where} says {length} bytes but its type and shape need {wanted}; the model is damaged"
        )
    if offset < 0:
        raise BqcError(f"{where} begins at byte {offset} of {location}; the model is damaged")
    if offset + length > size:
        raise BqcError(
            f"{where} needs bytes {offset} to {offset + length} of {location}, which has only {size}; "
            f"the data file is truncated or belongs to another model"
        )


def _number(where: str, entries: dict[str, str], key: str, default: int) -> int:
    try:
        return int(entries.get(key, default))
    except ValueError:
        raise BqcError(
            f"{where} has the {key} {entries[key][:40]!r} in its data file; the model is damaged"
        ) from None


def _place(where: str, file: Path, location: str) -> Path:
    """The data file with all symbolic links followed.

    It lies in the model's folder. One exception: if the model itself is a symbolic link, its data may be one
    beside it, to the same place. That is how the Hugging Face hub keeps downloads: `snapshots/REVISION/` links
    to `blobs/`.
    """
    outside = BqcError(f"{where} is stored outside the model's folder ({location}); refusing to read it")
    try:
        folder, data = file.parent.resolve(), (file.parent / location).resolve()
        if os.path.isabs(location) or ".." in Path(location).parts:
            raise outside
        linked = file.is_symlink() and (file.parent / location).is_symlink()
        if not data.is_relative_to(folder) and not (linked and data.parent == file.resolve().parent):
            raise outside
        if data.exists() and not data.is_file():
            raise BqcError(f"{where}: its data file {location!r} is a folder or a device, not a file")
        if not data.is_file():
            raise BqcError(f"{where}: its data file {location} is missing; copy it next to the model")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte in it, links in a circle
        reason = getattr(error, "strerror", None) or str(error)[:80]
        raise BqcError(f"{where}: its data file {location[:80]!r} cannot be looked for: {reason}") from error
    return data


# Where a type's values are when they are not in raw_data, and how many stand for one element.
_FIELDS: dict[int, tuple[str, int]] = {
    **dict.fromkeys((onnx.TensorProto.FLOAT,), ("float_data", 1)),
    **dict.fromkeys((onnx.TensorProto.COMPLEX64,), ("float_data", 2)),
    **dict.fromkeys((onnx.TensorProto.DOUBLE,), ("double_data", 1)),
    **dict.fromkeys((onnx.TensorProto.COMPLEX128,), ("double_data", 2)),
    **dict.fromkeys((onnx.TensorProto.INT64,), ("int64_data", 1)),
    **dict.fromkeys((onnx.TensorProto.UINT32, onnx.TensorProto.UINT64), ("uint64_data", 1)),
    **dict.fromkeys((onnx.TensorProto.STRING,), ("string_data", 1)),
}


def _check_inline(where: str, tensor: onnx.TensorProto, wanted: int) -> None:
    if tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
        if found != wanted:
            raise BqcError(
                f"{where} has {found} bytes but its type and shape need {wanted}; the file is damaged"
            )
        return
    field, each = _FIELDS.get(tensor.data_type, ("int32_data", 1))
    count = math.prod(tensor.dims) * each
    # Types of less than a byte are packed, so that fewer values than elements are right.
    packed = field == "int32_data" and ir.DataType(tensor.data_type).bitwidth < 8
    found = len(getattr(tensor, field))
    if found > count or (found < count and not (packed and found >= wanted)):
        raise BqcError(f"{where} has {found} values but its shape needs {count}; the file is damaged")


def _byte_size(where: str, tensor: onnx.TensorProto) -> int:
    sizes = [int(n) for n in tensor.dims]
    if any(n < 0 for n in sizes):
        raise BqcError(f"{where} has the shape {sizes}; the model is damaged")
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    bits: int = ir.DataType(tensor.data_type).bitwidth
    return -(-int(math.prod(sizes)) * bits // 8)


def _read_or_map(model: ir.Model, folder: Path, places: dict[str, Path]) -> None:
    """Small external tensors into memory; the others know the folder that their data is really in."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _found(value.const_value, folder, places)
        for node in graph:
            for name, attribute in node.attributes.items():
                if isinstance(attribute, ir.Attr) and isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _found(attribute.value, folder, places))


def _found(tensor: ir.ExternalTensor, folder: Path, places: dict[str, Path]) -> ir.TensorProtocol:
    place = places[os.fspath(tensor.location)]
    found = ir.ExternalTensor(
        # Links have been followed and judged. An absolute place is looked at by nobody else again, and hard
        # links, which package managers make of downloads, are as good as any file.
        place,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
    if found.nbytes > _IN_MEMORY:
        return found
    return ir.Tensor(np.array(found.numpy()), dtype=found.dtype, name=found.name, doc_string=found.doc_string)

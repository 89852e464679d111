"""Opening ONNX files that nobody has vouched for.

Everything that can be wrong with the bytes is found here, before anything is allocated from sizes the file
claims: later code may trust the model. External data stays on disk and is mapped when a weight is read.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from bqc.errors import BqcError

__all__ = ["FORMAT_KEY", "is_compiled", "load"]

FORMAT_KEY = "bqc.format_version"


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model file; external data is checked and stays lazily mapped.

    Raises:
        BqcError: missing file, directory, not ONNX, truncated, or external data that is missing, outside the
            model's folder, or shorter than the model says.
    """
    file = Path(path)
    if file.is_dir():
        raise BqcError(f"{file}: is a directory; give the .onnx file in it")
    if not file.is_file():
        raise BqcError(f"{file}: no such file")
    try:
        proto = onnx.load(file, load_external_data=False)
    except OSError as error:
        raise BqcError(f"{file}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        raise BqcError(f"{file}: not an ONNX model, or truncated; export or download it again") from error
    try:
        with _quiet():
            model = ir.from_proto(proto)
        for graph in model.graphs():
            ir.external_data.set_base_dir(graph, file.parent)
    except Exception as error:
        line = str(error).strip().splitlines()[0][:200]
        raise BqcError(f"{file}: the model is damaged ({line})") from error
    if not model.graph.opset_imports or (not len(model.graph) and not model.graph.outputs):
        raise BqcError(f"{file}: not an ONNX model, or truncated; export or download it again")
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(file, tensor)
        elif not isinstance(tensor, ir.StringTensor):
            _check_inline(file, tensor)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dangling names are reported as errors when the graph is checked, so not as warnings here."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_compiled(model: ir.Model) -> bool:
    """Was this model written by `bqc compile`?"""
    return FORMAT_KEY in model.metadata_props


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor of the file: initializers and node attributes, in subgraphs and functions too."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.as_tensor()


def _check_external(file: Path, tensor: ir.ExternalTensor) -> None:
    where = f"{file}: weight {tensor.name!r}"
    location = os.fspath(tensor.location)
    folder = file.parent.resolve()
    data = folder / location
    if os.path.isabs(location) or not data.resolve().is_relative_to(folder):
        raise BqcError(f"{where} is stored outside the model's folder ({location}); refusing to read it")
    if not data.is_file():
        raise BqcError(f"{where}: its data file {location} is missing; copy it next to the model")
    size = data.stat().st_size
    offset, wanted = tensor.offset or 0, _byte_size(where, tensor)
    length = wanted if tensor.length is None else tensor.length
    if length != wanted:
        raise BqcError(
            f"{where} says {length} bytes but its type and shape need {wanted}; the model is damaged"
        )
    if offset < 0 or length < 0 or offset + length > size:
        raise BqcError(
            f"{where} needs bytes {offset} to {offset + length} of {location}, which has only {size}; "
            f"the data file is truncated or belongs to another model"
        )


def _check_inline(file: Path, tensor: ir.TensorProtocol) -> None:
    where = f"{file}: weight {tensor.name!r}"
    wanted = _byte_size(where, tensor)
    proto = tensor.raw
    if not isinstance(proto, onnx.TensorProto) or not proto.HasField("raw_data"):
        return
    found = len(proto.raw_data)
    if found != wanted:
        raise BqcError(f"{where} has {found} bytes but its type and shape need {wanted}; the file is damaged")


def _byte_size(where: str, tensor: ir.TensorProtocol) -> int:
    sizes = [int(n) for n in tensor.shape.numpy()]
    if any(n < 0 for n in sizes):
        raise BqcError(f"{where} has the shape {sizes}; the model is damaged")
    count = 1
    for n in sizes:
        count *= n
    return -(-count * tensor.dtype.bitwidth // 8)

"""A model's protobuf without its weights: whatever its size, small enough for the checker and the converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from bqc.errors import BqcError

__all__ = ["check_valid", "one_line", "skeleton"]

_STRIP_ABOVE = 1024


def skeleton(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.Value]]:
    """The model with large initializers as inputs, and those initializers; the model itself is unchanged.

    Outputs without a shape, which ONNX Runtime takes and the checker does not, are none here.

    Raises BqcError if it cannot be written as ONNX.
    """
    graph = model.graph
    large = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > _STRIP_ABOVE
    }
    for name, value in large.items():
        del graph.initializers[name]
        graph.inputs.append(value)
    try:
        proto = ir.to_proto(model)
        whole = [value for value in proto.graph.output if value.type.tensor_type.HasField("shape")]
        del proto.graph.output[:]
        proto.graph.output.extend(whole)
        return proto, large
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, BqcError):  # a weight whose data a text left out
            raise cause from None
        raise BqcError(f"the model is not valid ONNX: {one_line(cause)}") from error
    finally:
        for name, value in large.items():
            graph.inputs.pop()
            graph.initializers[name] = value


def check_valid(proto: onnx.ModelProto) -> None:
    """Raise BqcError, with the checker's own first line, unless it is valid ONNX."""
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise BqcError(f"the model is not valid ONNX: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an error of another package says, in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__

"""Weights that a text leaves out: known by type, shape and digest, and put back from the model that has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import onnx_ir as ir

from bqc.errors import BqcError

__all__ = ["ElidedTensor", "attach_weights", "digest", "elided_tensors", "replace_tensors", "require_weights"]


class ElidedTensor(ir.LazyTensor):
    """A tensor whose data a text left out; reading them is an error that says where they can come from.

    ``digest`` is the beginning of the SHA-256 of the packed bytes, as the function `digest` gives it.
    """

    def __init__(self, dtype: ir.DataType, shape: ir.Shape, digest: str, *, name: str | None = None) -> None:
        super().__init__(self._missing, dtype, shape, name=name)
        self.digest = digest

    def __repr__(self) -> str:
        return f"ElidedTensor({self.dtype}, {self.shape}, {self.digest!r}, name={self.name!r})"

    def _missing(self) -> NoReturn:
        raise BqcError(
            f"weight {self.name!r} was left out of the text (sha256:{self.digest}); "
            f"give the model that has it: bqc opt --weights MODEL, or bqc.ir.text.attach_weights"
        )


def digest(tensor: ir.TensorProtocol) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a tensor's packed little-endian bytes."""
    return (
        tensor.digest
        if isinstance(tensor, ElidedTensor)
        else hashlib.sha256(tensor.tobytes()).hexdigest()[:16]
    )


def elided_tensors(model: ir.Model) -> list[ElidedTensor]:
    """Tensors without data, of initializers and attributes, in subgraphs and functions too."""
    return [tensor for tensor, _ in _slots(model) if isinstance(tensor, ElidedTensor)]


def require_weights(model: ir.Model) -> None:
    """Raises BqcError that names the first tensor without data, if there is one."""
    for tensor in elided_tensors(model):
        tensor.numpy()


def attach_weights(model: ir.Model, source: ir.Model) -> None:
    """Put back what the text left out, from a model whose tensors have the same type, shape and digest.

    Raises BqcError that names a weight the source does not have.
    """
    missing = elided_tensors(model)
    wanted = {(t.dtype, tuple(t.shape.numpy())) for t in missing}
    found = {}
    for tensor, _ in _slots(source):
        kind = (tensor.dtype, tuple(tensor.shape.numpy()))
        if kind in wanted:
            found[kind, digest(tensor)] = tensor

    def present(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ElidedTensor):
            return tensor
        key = (tensor.dtype, tuple(tensor.shape.numpy())), tensor.digest
        if key not in found:
            raise BqcError(
                f"weight {tensor.name!r} ({tensor.dtype.name.lower()}{list(tensor.shape.numpy())}, "
                f"sha256:{tensor.digest}) is not in the model given for its weights"
            )
        return found[key]

    replace_tensors(model, present)


def replace_tensors(model: ir.Model, change: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Give every tensor of the model to ``change``, and keep what it returns."""
    for tensor, put in list(_slots(model)):
        new = change(tensor)
        if new is not tensor:
            put(new)


def _slots(model: ir.Model) -> Iterator[tuple[ir.TensorProtocol, Callable[[ir.TensorProtocol], None]]]:
    """Every tensor, and a function that puts another in its place."""
    for top in (model.graph, *(function.graph for function in model.functions.values())):
        for graph in (top, *top.subgraphs()):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    yield value.const_value, partial(setattr, value, "const_value")
            for node in graph:
                for attribute in node.attributes.values():
                    yield from _slots_of(node, attribute)


def _slots_of(
    node: ir.Node, attribute: ir.Attr
) -> Iterator[tuple[ir.TensorProtocol, Callable[[ir.TensorProtocol], None]]]:
    def put(i: int, tensor: ir.TensorProtocol) -> None:
        old = node.attributes[attribute.name]
        many = old.type == ir.AttributeType.TENSORS
        value: Any = [*old.value[:i], tensor, *old.value[i + 1 :]] if many else tensor
        node.attributes[old.name] = ir.Attr(old.name, old.type, value, doc_string=old.doc_string)

    if attribute.is_ref():
        return
    if attribute.type == ir.AttributeType.TENSOR:
        yield attribute.value, partial(put, 0)
    elif attribute.type == ir.AttributeType.TENSORS:
        yield from ((tensor, partial(put, i)) for i, tensor in enumerate(attribute.value))

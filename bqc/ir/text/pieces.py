"""What the smaller productions of the grammar have in common: types, tensors, numbers, and notes on things."""

from __future__ import annotations

import base64
import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.ir.growth import GROWTH_LIMIT
from bqc.ir.text.lexer import DTYPES, NESTED_TYPES, Lexer, Token
from bqc.ir.text.literals import byte_size, encode, encode_splat, float32

__all__ = ["Pieces"]

_DEPTH = 24
"""Graphs in graphs, types in types: protobuf readers give up at 100 messages, and a graph in a node is three."""
_DIGEST = re.compile("sha256:[0-9a-f]{16}")
_INT64 = range(-(1 << 63), 1 << 63)
_INTEGER = re.compile(r"[-+]?\d+")


class Pieces(Lexer):
    """A lexer that knows types, tensors, numbers and notes; one method a production."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text, where)
        self._depth = 0
        self._grown = 0

    @contextlib.contextmanager
    def nested(self) -> Iterator[None]:
        """Around what may contain itself."""
        if self._depth == _DEPTH:
            raise self.error(self.token, f"nested deeper than {_DEPTH}")
        self._depth += 1
        yield
        self._depth -= 1

    # Types

    def at_type(self) -> bool:
        return self.token.kind == "ident" and (self.token.text in DTYPES or self.token.text in NESTED_TYPES)

    def type(self, kind: onnx.TypeProto) -> None:
        token = self.take("ident", "a type such as float[2,N]")
        with self.nested():
            if token.text in ("seq", "optional"):
                outer = kind.sequence_type if token.text == "seq" else kind.optional_type
                self.expect("(", f"after {token.text}")
                self.type(outer.elem_type)
                self.expect(")", f"after the element type of {token.text}")
            elif token.text == "sparse_tensor":
                self.expect("(", "after sparse_tensor")
                inner = self.take("ident", "an element type")
                self._tensor_type(kind.sparse_tensor_type, inner)
                self.expect(")", "after the type of a sparse tensor")
            else:
                self._tensor_type(kind.tensor_type, token)

    def _tensor_type(self, kind: Any, token: Token) -> None:
        if token.text not in DTYPES:
            raise self.error(token, f"no type {token.text!r}; there are {', '.join(DTYPES)}")
        kind.elem_type = int(DTYPES[token.text])
        if not self.accept("["):
            kind.shape.SetInParent()
        elif not self.accept("]"):
            self.list_of(lambda: self._dim(kind.shape.dim.add()), "]", "a dimension")

    def _dim(self, dim: onnx.TensorShapeProto.Dimension) -> None:
        if self.accept("?"):
            return
        if self.token.kind == "number":
            token = self.token
            dim.dim_value = self.integer("a dimension")
            if dim.dim_value < 0:
                raise self.error(token, f"the dimension {token.text} is negative")
        else:
            dim.dim_param = self.name("a dimension: a number, a name or ?")

    # Tensors

    def data(self, tensor: onnx.TensorProto, kind: onnx.TypeProto, start: Token) -> None:
        """``{...}``, ``raw "..."`` or ``elided "..."``, for a tensor of that type."""
        tensor_type = kind.tensor_type
        if not kind.HasField("tensor_type") or not tensor_type.HasField("shape"):
            raise self.error(start, "a tensor needs a type and a shape, as in float[2,3]")
        if any(not dim.HasField("dim_value") for dim in tensor_type.shape.dim):
            raise self.error(start, "a tensor needs a shape of numbers")
        dtype = ir.DataType(tensor_type.elem_type)
        tensor.data_type = int(dtype)
        tensor.dims.extend(dim.dim_value for dim in tensor_type.shape.dim)
        token = self.token
        if self.accept("{"):
            if dtype == ir.DataType.STRING:
                self._strings(tensor, token)
            else:
                self._elements(tensor, dtype, token)
        elif token.kind == "ident" and token.text in ("raw", "elided") and dtype != ir.DataType.STRING:
            self.advance()
            (self._raw if token.text == "raw" else self._elided)(tensor, self.token)
        else:
            raise self.expected('the data of a tensor: {1, 2}, {0, ...}, raw "..." or elided "..."')

    def _strings(self, tensor: onnx.TensorProto, start: Token) -> None:
        self.list_of(lambda: tensor.string_data.append(self.bytestring("a string")), "}", "an element")
        self._count(len(tensor.string_data), tensor, start)

    def _elements(self, tensor: onnx.TensorProto, dtype: ir.DataType, start: Token) -> None:
        texts: list[str] = []
        self.list_of(
            lambda: texts.append("..." if self.accept("...") else self.number().text), "}", "an element"
        )
        size = math.prod(tensor.dims)
        try:
            if texts[1:] == ["..."]:
                self._grown += size
                if self._grown > GROWTH_LIMIT:
                    raise self.error(
                        start, f"more than {GROWTH_LIMIT} elements out of single ones are refused"
                    )
                tensor.raw_data = encode_splat(dtype, texts[0], size)
            else:
                if "..." in texts:
                    raise self.error(start, "... stands after a single element, as in {0, ...}")
                self._count(len(texts), tensor, start)
                tensor.raw_data = encode(dtype, texts)
        except ValueError as error:
            raise self.error(start, str(error)) from None

    def _count(self, found: int, tensor: onnx.TensorProto, start: Token) -> None:
        if found != math.prod(tensor.dims):
            raise self.error(start, f"{found} elements where the shape needs {math.prod(tensor.dims)}")

    def _raw(self, tensor: onnx.TensorProto, start: Token) -> None:
        try:
            tensor.raw_data = base64.b64decode(self.string("base64 in quotes"), validate=True)
        except ValueError as error:
            raise self.error(start, f"no base64: {error}") from None
        found, wanted = len(tensor.raw_data), byte_size(ir.DataType(tensor.data_type), tensor.dims)
        if found != wanted:
            raise self.error(start, f"{found} bytes where the shape needs {wanted}")

    def _elided(self, tensor: onnx.TensorProto, start: Token) -> None:
        text = self.string("a digest in quotes")
        if not _DIGEST.fullmatch(text):
            raise self.error(start, 'expected "sha256:" and 16 hexadecimal digits')
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=text)

    # Small things

    def notes(self, owner: Any) -> None:
        """``@layer:role``, ``@{key: "value", ...}`` and ``@doc "..."``, in any order."""
        while True:
            if self.token.kind == "label":
                token = self.advance()
                if not hasattr(owner, "metadata_props"):
                    raise self.error(token, "only nodes and values have labels")
                layer, _, role = token.text[1:].partition(":")
                owner.metadata_props.add(key=LAYER_KEY, value=layer)
                owner.metadata_props.add(key=ROLE_KEY, value=role)
            elif not self.accept("@"):
                return
            elif hasattr(owner, "metadata_props") and self.accept("{"):
                self.list_of(lambda: self.pair(owner), "}", "a pair")
            elif self.token.kind == "ident" and self.token.text == "doc":
                self.advance()
                owner.doc_string = self.string("a string")
            else:
                raise self.expected('a label such as 0:ffn.output, {key: "value"} or doc "..."')

    def pair(self, owner: Any) -> None:
        """``key: "value"`` into the metadata of ``owner``; strings that follow each other are one."""
        entry = owner.metadata_props.add()
        entry.key = self.name("a metadata key")
        self.expect(":", "after a metadata key")
        entry.value = self.string("a string")
        while self.token.kind == "string":
            entry.value += self.string("a string")

    def number(self) -> Token:
        token = self.token
        if token.kind == "number" or (token.kind == "ident" and token.text in ("inf", "nan")):
            return self.advance()
        raise self.expected("a number")

    def integer(self, what: str) -> int:
        return self.integer_of(self.take("number", what))

    def integer_of(self, token: Token) -> int:
        if not is_integer(token):
            raise self.error(token, f"expected a whole number, found {token}")
        if int(token.text) not in _INT64:
            raise self.error(token, f"{token.text[:40]} is beyond 64 bits")
        return int(token.text)

    def float_of(self, token: Token) -> float:
        try:
            return float32(token.text)
        except ValueError as error:
            raise self.error(token, str(error)) from None


def is_integer(token: Token) -> bool:
    """Has a number neither point nor exponent?"""
    return _INTEGER.fullmatch(token.text) is not None

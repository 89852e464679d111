"""From text to a model."""

from __future__ import annotations

import logging
from typing import Any

import onnx
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.soundness import Damage, check_graphs
from bqc.ir.text.elided import ElidedTensor, replace_tensors
from bqc.ir.text.lexer import Token
from bqc.ir.text.pieces import Pieces, is_integer

__all__ = ["from_text"]

_ENTRIES = (
    "ir_version",
    "opset_import",
    "metadata_props",
    "producer_name",
    "producer_version",
    "model_version",
)
_ATTRIBUTES = {
    "float": onnx.AttributeProto.FLOAT,
    "int": onnx.AttributeProto.INT,
    "string": onnx.AttributeProto.STRING,
    "tensor": onnx.AttributeProto.TENSOR,
    "graph": onnx.AttributeProto.GRAPH,
    "type_proto": onnx.AttributeProto.TYPE_PROTO,
    "floats": onnx.AttributeProto.FLOATS,
    "ints": onnx.AttributeProto.INTS,
    "strings": onnx.AttributeProto.STRINGS,
    "tensors": onnx.AttributeProto.TENSORS,
    "graphs": onnx.AttributeProto.GRAPHS,
    "type_protos": onnx.AttributeProto.TYPE_PROTOS,
}


def from_text(text: str, where: str = "<text>") -> ir.Model:
    """Inverse of `to_text`; also reads what onnx's own printer writes.

    Tensors that the text left out become `ElidedTensor`.

    Raises:
        BqcError: ``where:line:column: expected ..., found ...``, or a graph that cannot be right.
    """
    proto = _Parser(text, where).model()
    try:
        check_graphs(proto)
        model = _deserialized(proto)
        replace_tensors(model, _elided)
    except Damage as error:
        raise BqcError(f"{where}: {error}") from None
    except Exception as error:  # onnx_ir has no kind of its own for graphs that make no sense
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BqcError(f"{where}: the model makes no sense ({line})") from error
    return model


def _deserialized(proto: onnx.ModelProto) -> ir.Model:
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return ir.from_proto(proto)
    finally:
        logger.setLevel(level)


def _elided(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    digest = str(tensor.location).removeprefix("sha256:")  # no file of that name is ever looked for
    return ElidedTensor(tensor.dtype, tensor.shape, digest, name=tensor.name)


class _Parser(Pieces):
    """Recursive descent: one method a production of the grammar in docs/text-form.md."""

    # Models and functions

    def model(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        self.expect("<", "that opens the header of the model")
        self.list_of(lambda: self._model_entry(model), ">", "an entry of the header")
        self._graph(model.graph)
        while self.at("<"):
            self._function(model.functions.add())
        if self.token.kind != "end":
            raise self.expected("a function or the end of the text")
        return model

    def _model_entry(self, model: onnx.ModelProto) -> None:
        key = self.take("ident", "an entry of the model's header, such as ir_version")
        self.expect(":", f"after {key.text}")
        if key.text in ("ir_version", "model_version"):
            setattr(model, key.text, self.integer("a version"))
        elif key.text in ("producer_name", "producer_version", "domain", "doc_string"):
            setattr(model, key.text, self.string("a string"))
        else:
            self._shared_entry(key, model)

    def _shared_entry(self, key: Token, owner: onnx.ModelProto | onnx.FunctionProto) -> None:
        if key.text == "opset_import":
            self.expect("[", "that opens the opset imports")
            self.list_of(lambda: self._opset(owner), "]", "an opset import")
        elif key.text == "metadata_props":
            self.expect("[", "that opens the metadata")
            self.list_of(lambda: self.pair(owner), "]", "a pair")
        else:
            raise self.error(key, f"no entry {key.text!r}; there are {', '.join(_ENTRIES)}")

    def _opset(self, owner: onnx.ModelProto | onnx.FunctionProto) -> None:
        entry = owner.opset_import.add()
        entry.domain = self.string("a domain in quotes")
        self.expect(":", "after a domain")
        entry.version = self.integer("a version")

    def _function(self, function: onnx.FunctionProto) -> None:
        self.expect("<", "that opens the header of a function")
        self.list_of(lambda: self._function_entry(function), ">", "an entry of the header")
        function.name = self.name("the name of the function")
        if self.accept("<"):
            self.list_of(lambda: self._parameter(function), ">", "an attribute")
        function.input.extend(v.name for v in self._values("inputs", function.value_info))
        self.expect("=>", "after the inputs of a function")
        function.output.extend(v.name for v in self._values("outputs", function.value_info))
        if self.accept("<"):
            self.list_of(lambda: self._typed(function.value_info), ">", "a value")
        self._nodes(function.node, function.value_info)

    def _function_entry(self, function: onnx.FunctionProto) -> None:
        key = self.take("ident", "an entry of the function's header, such as domain")
        self.expect(":", f"after {key.text}")
        if key.text in ("domain", "overload", "doc_string"):
            setattr(function, key.text, self.string("a string"))
        else:
            self._shared_entry(key, function)

    def _parameter(self, function: onnx.FunctionProto) -> None:
        token = self.token
        name = self.name("the name of an attribute")
        if self.at(":", "="):
            self._attribute_value(function.attribute_proto.add(), name, token)
        else:
            function.attribute.append(name)

    # Graphs and nodes

    def _graph(self, graph: onnx.GraphProto) -> None:
        with self.nested():
            graph.name = self.name("the name of the graph")
            graph.input.extend(self._values("inputs", None))
            self.expect("=>", "after the inputs of a graph")
            graph.output.extend(self._values("outputs", None))
            self.notes(graph)
            if self.accept("<"):
                self.list_of(lambda: self._initializer(graph), ">", "an initializer")
            self._nodes(graph.node, graph.value_info, {value.name for value in graph.output})

    def _values(self, what: str, infos: Any) -> list[onnx.ValueInfoProto]:
        """``(value, ...)``; those that say more than a name are also added to ``infos``."""
        found: list[onnx.ValueInfoProto] = []
        self.expect("(", f"that opens the {what}")
        self.list_of(lambda: found.append(self._value()), ")", f"one of the {what}")
        if infos is not None:
            infos.extend(value for value in found if _says_more(value))
        return found

    def _value(self) -> onnx.ValueInfoProto:
        value = onnx.ValueInfoProto()
        if self.at_type():
            self.type(value.type)
        value.name = self.name("a value: its type, if known, and its name")
        self.notes(value)
        return value

    def _typed(self, infos: Any) -> None:
        infos.append(self._value())

    def _initializer(self, graph: onnx.GraphProto) -> None:
        value = self._value()
        if not self.at("="):
            graph.value_info.append(value)
            return
        equals = self.advance()
        tensor = graph.initializer.add(name=value.name)
        self.data(tensor, value.type, equals)
        self.notes(value)
        if value.metadata_props or value.doc_string:
            graph.value_info.append(value)

    def _nodes(self, nodes: Any, infos: Any, declared: set[str] | None = None) -> None:
        self.expect("{", "that opens the nodes")
        while not self.accept("}"):
            self._node(nodes.add(), infos, declared or set())

    def _node(self, node: onnx.NodeProto, infos: Any, declared: set[str]) -> None:
        if self.accept("["):
            node.name = self.name("the name of a node")
            self.expect("]", "after the name of a node")
        while not self.accept("="):
            value = self._value()
            node.output.append(value.name)
            # The header of the graph says what its outputs are.
            if _says_more(value) and value.name not in declared:
                infos.append(value)
            if not self.at("="):
                self.expect(",", "or '=' after an output")
        node.domain, node.op_type = self._operator()
        if self.accept(":"):
            node.overload = self.name("an overload")
        listed = self._attributes(node)
        self.expect("(", "that opens the inputs of a node" if listed else "or '<' after an operator")
        self.list_of(lambda: node.input.append(self._input()), ")", "an input")
        if not listed:
            self._attributes(node)
        self.notes(node)

    def _input(self) -> str:
        return "" if self.at(",") else self.name('a value, or "" for none')

    def _operator(self) -> tuple[str, str]:
        """``[domain "."] operator``; dots in what is quoted separate nothing."""
        token = self.token
        name = self.name("an operator")
        if self.accept("."):
            return name, self.name("an operator after its domain")
        if token.kind == "string":
            return "", name
        domain, _, op = name.rpartition(".")
        return domain, op

    # Attributes

    def _attributes(self, node: onnx.NodeProto) -> bool:
        if not self.accept("<"):
            return False
        self.list_of(lambda: self._attribute(node), ">", "an attribute")
        return True

    def _attribute(self, node: onnx.NodeProto) -> None:
        token = self.token
        name = self.name("the name of an attribute")
        if any(known.name == name for known in node.attribute):
            raise self.error(token, f"the attribute {name!r} is there twice")
        self._attribute_value(node.attribute.add(), name, token)

    def _attribute_value(self, attribute: onnx.AttributeProto, name: str, token: Token) -> None:
        attribute.name = name
        kind = None
        if self.accept(":"):
            kind = self.take("ident", "the type of an attribute")
            if kind.text not in _ATTRIBUTES:
                raise self.error(kind, f"no attribute type {kind.text!r}; there are {', '.join(_ATTRIBUTES)}")
        self.expect("=", "before the value of an attribute")
        if self.accept("@"):
            attribute.ref_attr_name = self.name("the name of the function's attribute")
            if kind is None or kind.text in ("graph", "graphs"):  # onnx_ir cannot walk the latter
                raise self.error(
                    token, f"a reference needs a type other than graph, as in {name}: int = @..."
                )
            attribute.type = _ATTRIBUTES[kind.text]
        else:
            self._value_of(attribute, kind.text if kind is not None else None)
        if self.at("@"):
            self.notes(attribute)

    def _value_of(self, attribute: onnx.AttributeProto, kind: str | None) -> None:
        bracket = self.token
        if not self.accept("["):
            self._one(attribute, kind or self._guess(), many=False)
            return
        if kind is None and self.at("]"):
            raise self.error(bracket, "an empty list needs its type, as in axes: ints = []")
        if kind is not None and kind[-1] != "s":
            raise self.error(bracket, f"expected a value of type {kind}, found a list")
        one = kind[:-1] if kind is not None else self._guess()
        if one in ("int", "float") and kind is None:
            # Whether a list has ints or floats shows only at its end.
            self._numbers(attribute)
            return
        attribute.type = _ATTRIBUTES[f"{one}s"]
        self.list_of(lambda: self._one(attribute, one, many=True), "]", "an element")

    def _numbers(self, attribute: onnx.AttributeProto) -> None:
        tokens: list[Token] = []
        self.list_of(lambda: tokens.append(self.number()), "]", "an element")
        if all(is_integer(token) for token in tokens):
            attribute.type = onnx.AttributeProto.INTS
            attribute.ints.extend(self.integer_of(token) for token in tokens)
        else:
            attribute.type = onnx.AttributeProto.FLOATS
            attribute.floats.extend(self.float_of(token) for token in tokens)

    def _guess(self) -> str:
        token = self.token
        if token.kind == "string":
            return "string"
        if token.kind == "number":
            return "int" if is_integer(token) else "float"
        if token.kind == "ident" and token.text in ("inf", "nan"):
            return "float"
        if self.at_type():
            return "tensor"
        if token.kind == "ident":
            return "graph"
        raise self.expected("the value of an attribute")

    def _one(self, attribute: onnx.AttributeProto, kind: str, *, many: bool) -> None:
        if not many:
            if kind[-1] == "s":
                raise self.expected(f"'[' that opens a list of type {kind}")
            attribute.type = _ATTRIBUTES[kind]
        if kind in ("int", "float"):
            token = self.number()
            number = self.integer_of(token) if kind == "int" else self.float_of(token)
            _put(attribute, kind, number, many)
        elif kind == "string":
            _put(attribute, kind, self.bytestring("a string"), many)
        elif kind == "tensor":
            self._tensor(attribute.tensors.add() if many else attribute.t)
        elif kind == "graph":
            self._graph(attribute.graphs.add() if many else attribute.g)
        else:
            self.type(attribute.type_protos.add() if many else attribute.tp)

    def _tensor(self, tensor: onnx.TensorProto) -> None:
        kind = onnx.TypeProto()
        start = self.token
        self.type(kind)
        if self.token.kind == "string" or (
            self.token.kind == "ident" and self.token.text not in ("raw", "elided")
        ):
            tensor.name = self.name("the name of the tensor")
        self.accept("=")
        self.data(tensor, kind, start)


def _put(attribute: onnx.AttributeProto, kind: str, value: float | bytes, many: bool) -> None:
    if many:
        getattr(attribute, f"{kind}s").append(value)
    else:
        setattr(attribute, kind[0], value)


def _says_more(value: onnx.ValueInfoProto) -> bool:
    """Does the text say more of a value than its name?"""
    return value.HasField("type") or bool(value.metadata_props) or bool(value.doc_string)

"""From a model to its text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.ir.match import has_graphs
from bqc.ir.text.elided import ElidedTensor, digest
from bqc.ir.text.lexer import LABEL, quote, spell_name
from bqc.ir.text.literals import elements, float_literal, is_splat

__all__ = ["Tensors", "metadata_entry", "to_text"]

Tensors = Literal["elide", "inline"]
"""What becomes of tensors with more than 16 elements: a digest, or all their bytes."""

_FEW = 16
_REPEATED = 5
"""Equal elements that are written once; fewer are as easily read one by one."""
_INDENT = "   "
_TYPE_NAMES = {
    ir.AttributeType.INTS: "ints",
    ir.AttributeType.FLOATS: "floats",
    ir.AttributeType.STRINGS: "strings",
    ir.AttributeType.INT: "int",
    ir.AttributeType.FLOAT: "float",
    ir.AttributeType.STRING: "string",
    ir.AttributeType.TENSOR: "tensor",
    ir.AttributeType.TENSORS: "tensors",
    ir.AttributeType.GRAPH: "graph",
    ir.AttributeType.GRAPHS: "graphs",
    ir.AttributeType.TYPE_PROTO: "type_proto",
    ir.AttributeType.TYPE_PROTOS: "type_protos",
}
_OBVIOUS = (
    ir.AttributeType.INT,
    ir.AttributeType.FLOAT,
    ir.AttributeType.STRING,
    ir.AttributeType.INTS,
    ir.AttributeType.FLOATS,
    ir.AttributeType.STRINGS,
)
"""Attribute types that show in their values, unless those are empty lists."""


def to_text(model: ir.Model, *, tensors: Tensors = "elide") -> str:
    """The textual form; `from_text` reads it back, and the text of that is the same.

    Tensors of up to 16 elements, of equal elements, and of strings are always written out. Of others the text
    has type, shape and digest, or with ``tensors="inline"`` their bytes in base64.
    """
    return _Printer(tensors).model(model)


class _Printer:
    """One method a production of the grammar in docs/text-form.md."""

    def __init__(self, tensors: Tensors) -> None:
        self._inline = tensors == "inline"
        self._fresh: dict[ir.Value, str] = {}

    def model(self, model: ir.Model) -> str:
        entries = [f"ir_version: {model.ir_version}", _opsets(model.graph.opset_imports)]
        for key in ("producer_name", "producer_version", "domain", "doc_string"):
            if getattr(model, key):
                entries.append(f"{key}: {quote(getattr(model, key))}")
        if model.model_version:
            entries.append(f"model_version: {model.model_version}")
        if model.metadata_props:
            entries.append(_metadata(model.metadata_props))
        parts = [_header(entries), *self._graph(model.graph, ""), ""]
        for function in model.functions.values():
            parts += [*self._function(function), ""]
        return "\n".join(parts)

    def _graph(self, graph: ir.Graph, indent: str) -> Iterator[str]:
        inputs = ", ".join(self._declared(value) for value in graph.inputs)
        outputs = ", ".join(self._declared(value) for value in graph.outputs)
        notes = _notes(graph.metadata_props, graph.doc_string)
        head = f"{spell_name(graph.name or '')} ({inputs}) => ({outputs}){notes}"
        constants = list(graph.initializers.values())
        if not constants:
            yield f"{head} {{"
        else:
            yield head
            yield f"{indent}<"
            for i, value in enumerate(constants):
                comma = "," if i < len(constants) - 1 else ""
                yield f"{indent}{_INDENT}{self._initializer(value)}{comma}"
            yield f"{indent}> {{"
        declared = set(graph.outputs)
        for node in graph:
            yield self._node(node, indent + _INDENT, declared)
        yield f"{indent}}}"

    def _function(self, function: ir.Function) -> Iterator[str]:
        entries = [f"domain: {quote(function.domain)}", _opsets(function.opset_imports)]
        if function.overload:
            entries.append(f"overload: {quote(function.overload)}")
        if function.doc_string:
            entries.append(f"doc_string: {quote(function.doc_string)}")
        if function.metadata_props:
            entries.append(_metadata(function.metadata_props))
        yield _header(entries)
        attributes = ", ".join(
            spell_name(a.name) if a.value is None else self._attribute(a, "")
            for a in sorted(function.attributes.values(), key=lambda a: a.name)
        )
        # onnx_ir does not read types of a function's inputs back from files, so neither are they written.
        inputs = ", ".join(self._name(value) for value in function.inputs)
        outputs = ", ".join(self._name(value) for value in function.outputs)
        listed = f" <{attributes}>" if attributes else ""
        yield f"{spell_name(function.name)}{listed} ({inputs}) => ({outputs}) {{"
        for node in function:
            yield self._node(node, _INDENT, set())
        yield "}"

    def _node(self, node: ir.Node, indent: str, declared: set[ir.Value]) -> str:
        label = f"[{spell_name(node.name)}] " if node.name else ""
        made = list(node.outputs)
        while made and made[-1].name == "":
            made.pop()
        outputs = ", ".join(self._name(v) if v in declared else self._declared(v) for v in made)
        domain = f"{spell_name(node.domain)}." if node.domain else ""
        op = spell_name(node.op_type) if "." not in node.op_type else quote(node.op_type)
        overload = f":{spell_name(node.overload)}" if node.overload else ""
        inputs = "(" + ", ".join('""' if v is None else self._name(v) for v in node.inputs) + ")"
        attributes = sorted(node.attributes.values(), key=lambda a: a.name)
        listed = ", ".join(self._attribute(a, indent) for a in attributes)
        # Subgraphs are long: what the node reads is easier to see before them.
        nested = has_graphs(node)
        middle = f" {inputs} <{listed}>" if nested else f" <{listed}> {inputs}" if listed else f" {inputs}"
        notes = _notes(node.metadata_props, node.doc_string)
        return f"{indent}{label}{outputs}{' ' if outputs else ''}= {domain}{op}{overload}{middle}{notes}"

    def _attribute(self, attribute: ir.Attr, indent: str) -> str:
        kind = attribute.type
        if kind not in _TYPE_NAMES:
            raise BqcError(
                f"attribute {attribute.name!r} has the type {kind.name.lower()}, which has no textual form"
            )
        name, notes = spell_name(attribute.name), _notes({}, attribute.doc_string)
        if attribute.is_ref():
            return f"{name}: {_TYPE_NAMES[kind]} = @{spell_name(attribute.ref_attr_name or '')}{notes}"
        value = attribute.value
        typed = "" if kind in _OBVIOUS and (kind.name[-1] != "S" or value) else f": {_TYPE_NAMES[kind]}"
        many = isinstance(value, (list, tuple)) and kind != ir.AttributeType.STRING
        texts = [self._attribute_item(kind, item, indent) for item in (value if many else [value])]
        return f"{name}{typed} = {'[' + ', '.join(texts) + ']' if many else texts[0]}{notes}"

    def _attribute_item(self, kind: ir.AttributeType, item: Any, indent: str) -> str:
        if kind in (ir.AttributeType.INT, ir.AttributeType.INTS):
            return str(int(item))
        if kind in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
            return float_literal(np.float32(item))
        if kind in (ir.AttributeType.STRING, ir.AttributeType.STRINGS):
            return quote(item)
        if kind in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
            name = f" {spell_name(item.name)}" if item.name else ""
            return f"{_tensor_type(item)}{name} {self._data(item)}"
        if kind in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return "\n".join(self._graph(item, indent))
        return _type(item.type, item.shape)

    def _initializer(self, value: ir.Value) -> str:
        tensor = value.const_value
        if tensor is None:
            return self._declared(value)
        notes = "" if value.is_graph_input() else _notes(value.metadata_props, value.doc_string)
        return f"{_tensor_type(tensor)} {self._name(value)} = {self._data(tensor)}{notes}"

    def _data(self, tensor: ir.TensorProtocol) -> str:
        if isinstance(tensor, ElidedTensor):
            return f'elided "sha256:{tensor.digest}"'
        if tensor.dtype == ir.DataType.STRING:
            # A numpy array of bytes would lose zeros at their ends.
            if isinstance(tensor, ir.StringTensor):
                return "{" + ", ".join(quote(item) for item in tensor.string_data()) + "}"
            return "{" + ", ".join(quote(item) for item in np.asarray(tensor.numpy()).reshape(-1)) + "}"
        if tensor.size >= _REPEATED and is_splat(tensor):
            first = elements(ir.Tensor(np.asarray(tensor.numpy()).reshape(-1)[:1], dtype=tensor.dtype))
            if first is not None:
                return f"{{{first[0]}, ...}}"
        elif tensor.size <= _FEW:
            texts = elements(tensor)
            if texts is not None:
                return "{" + ", ".join(texts) + "}"
        if tensor.size > _FEW and not self._inline:
            return f'elided "sha256:{digest(tensor)}"'
        return f'raw "{base64.b64encode(tensor.tobytes()).decode()}"'

    def _declared(self, value: ir.Value) -> str:
        kind = _type(value.type, value.shape)
        notes = _notes(value.metadata_props, value.doc_string)
        return f"{kind}{' ' if kind else ''}{self._name(value)}{notes}"

    def _name(self, value: ir.Value) -> str:
        """The value's name; one without, as passes may leave behind, gets a name for this text."""
        if value.name is None:
            return self._fresh.setdefault(value, quote(f"%{len(self._fresh)}"))
        return spell_name(value.name)


def _header(entries: Iterable[str]) -> str:
    return "<\n" + ",\n".join(f"{_INDENT}{entry}" for entry in entries) + "\n>"


def _opsets(imports: Mapping[str, int]) -> str:
    return "opset_import: [" + ", ".join(f"{quote(k)} : {v}" for k, v in sorted(imports.items())) + "]"


def _metadata(props: Mapping[str, str]) -> str:
    entries = ",\n".join(2 * _INDENT + metadata_entry(k, v) for k, v in sorted(props.items()))
    return f"metadata_props: [\n{entries}\n{_INDENT}]"


def metadata_entry(key: str, value: str) -> str:
    """Metadata in a header: a value of several lines, such as a plan, has a string for each."""
    lines = value.splitlines(keepends=True)
    if len(lines) < 2:
        return f"{quote(key)}: {quote(value)}"
    return f"{quote(key)}:" + "".join(f"\n{3 * _INDENT}{quote(line)}" for line in lines)


def _notes(props: Mapping[str, str], doc: str | None) -> str:
    """What follows a node or a value: ``@layer:role``, other metadata, documentation."""
    text = ""
    left = dict(props)
    layer, role = left.get(LAYER_KEY), left.get(ROLE_KEY)
    if layer and role and LABEL.fullmatch(layer) and LABEL.fullmatch(role):
        del left[LAYER_KEY], left[ROLE_KEY]
        text += f" @{layer}:{role}"
    if left:
        text += " @{" + ", ".join(f"{spell_name(k)}: {quote(v)}" for k, v in sorted(left.items())) + "}"
    return f"{text} @doc {quote(doc)}" if doc else text


def _tensor_type(tensor: ir.TensorProtocol) -> str:
    return _type(ir.TensorType(tensor.dtype), ir.Shape([int(n) for n in tensor.shape.numpy()]))


def _type(kind: ir.TypeProtocol | None, shape: ir.ShapeProtocol | None) -> str:
    if kind is None:
        return ""
    for outer, name in _OUTER:
        if isinstance(kind, outer):
            return f"{name}({_type(kind.elem_type, shape)})"
    name = kind.dtype.name.lower()
    if shape is None:
        text = f"{name}[]"
    else:
        dims = ",".join(_dim(d) for d in shape)
        text = f"{name}[{dims}]" if dims else name
    return f"sparse_tensor({text})" if isinstance(kind, ir.SparseTensorType) else text


_OUTER = ((ir.SequenceType, "seq"), (ir.OptionalType, "optional"))


def _dim(dim: int | ir.SymbolicDimProtocol) -> str:
    if isinstance(dim, int):
        return str(dim)
    return "?" if dim.value is None else spell_name(str(dim.value))

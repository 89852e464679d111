"""Hashes of what a node computes, and of what is computed from it; names never count.

The forward hash looks at what leads to a node, the backward hash at what follows it; each to the ends of the
graph or for some steps only. The contents of weights are left out, those of shapes and axes are in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx
import onnx_ir as ir

from bqc.diff.view import View
from bqc.ir.structure import attribute_digests, digest, function_digest, is_small

__all__ = ["Anchors", "Hasher", "attributes_of", "operator_name"]

Anchors = Mapping[ir.Value, str]
"""Names that both models share for their inputs and outputs."""


def operator_name(node: ir.Node) -> str:
    """``domain.operator``, without the domain of standard ONNX."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def attributes_of(view: View, node: ir.Node) -> dict[str, str]:
    """A digest of each attribute; those of standard operators that are left out count as their defaults."""
    opset = view.model.graph.opset_imports.get("", 0) if node.domain in ("", "ai.onnx") else 0
    return {**_defaults(node.op_type, opset), **attribute_digests(node)}


@cache
def _defaults(op_type: str, opset: int) -> dict[str, str]:
    if not opset or not onnx.defs.has(op_type):
        return {}
    try:
        schema = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return {}
    given = [attribute.default_value for attribute in schema.attributes.values()]
    made = [ir.serde.deserialize_attribute(proto) for proto in given if proto.name]
    return attribute_digests(ir.Node("", op_type, [], made))


class Hasher:
    """Hashes of the nodes of one view."""

    def __init__(self, view: View) -> None:
        self.view = view
        functions = {key: function_digest(body) for key, body in view.model.functions.items()}
        self.local = {node: self._local(node, functions) for node in view.nodes}
        """Operator, attributes and small constants of each node: the hash at distance 0."""
        self._constants = {value: _shape(tensor) for value, tensor in view.constants.items()}

    def forward(self, anchors: Anchors, steps: int | None = None) -> dict[ir.Node, str]:
        """By what leads to each node, from graph inputs (named by ``anchors``) or ``steps`` nodes away."""
        if steps is None:
            return self._forward(anchors, {}, into=True)
        found = dict(self.local)
        for _ in range(steps):
            found = self._forward(anchors, found, into=False)
        return found

    def backward(self, anchors: Anchors, steps: int | None = None) -> dict[ir.Node, str]:
        """By what follows each node, to graph outputs (named by ``anchors``) or ``steps`` nodes away."""
        if steps is None:
            found: dict[ir.Node, str] = {}
            for node in reversed(self.view.nodes):
                found[node] = self._after(node, anchors, found)
            return found
        found = dict(self.local)
        for _ in range(steps):
            found = {node: self._after(node, anchors, found) for node in self.view.nodes}
        return found

    def use(self, value: ir.Value, following: Mapping[ir.Node, str], anchors: Anchors) -> str:
        """Of a value, by who reads it."""
        readers = sorted(f"{slot}:{following[node]}" for node, slot in self.view.readers.get(value, []))
        output = anchors.get(value, "output") if value.is_graph_output() else ""
        return digest("use", output, *readers)

    def _local(self, node: ir.Node, functions: Mapping[tuple[str, str, str], str]) -> str:
        name = functions.get(node.op_identifier(), operator_name(node))
        attributes = [f"{key}={value}" for key, value in sorted(attributes_of(self.view, node).items())]
        small = []
        for slot, value in enumerate(self.view.reads[node]):
            tensor = None if value is None else self.view.constants.get(value)
            if tensor is not None and is_small(tensor) and not tensor.dtype.is_floating_point():
                small.append(f"{slot}={tensor.numpy().tolist()}")
        return digest(name, str(len(node.outputs)), *attributes, "", *small)

    def _forward(self, anchors: Anchors, before: Mapping[ir.Node, str], *, into: bool) -> dict[ir.Node, str]:
        found: dict[ir.Node, str] = {}
        known = found if into else before
        for node in self.view.nodes:
            inputs = [self._read(value, anchors, known) for value in self.view.reads[node]]
            found[node] = digest(self.local[node], *inputs)
        return found

    def _read(self, value: ir.Value | None, anchors: Anchors, known: Mapping[ir.Node, str]) -> str:
        if value is None:
            return ""
        if value in self._constants:
            return self._constants[value]
        node = value.producer()
        if node is None:
            return digest("input", anchors.get(value, ""))
        return digest(str(value.index()), known[node])

    def _after(self, node: ir.Node, anchors: Anchors, following: Mapping[ir.Node, str]) -> str:
        return digest(self.local[node], *(self.use(out, following, anchors) for out in node.outputs))


def _shape(tensor: ir.TensorProtocol) -> str:
    """Of a constant, contents aside: those of small integers are in the hash of the node already."""
    return digest("constant", tensor.dtype.name, "" if is_small(tensor) else str(tensor.shape))

"""A model as the comparison reads it: nodes in order, constants apart from nodes, and who reads what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir import import_model, is_compiled, load
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.ir.rewrite import sources
from bqc.ir.structure import captured

__all__ = ["NOWHERE", "Label", "View"]

Label = tuple[str, str]
"""Layer and role; both empty outside the anatomy."""

NOWHERE: Label = ("", "")


@dataclass(eq=False)
class View:
    """One of the two models.

    Attributes:
        model: the model; its nodes are in topological order.
        path: its file, where it has one.
        canonical: whether it was imported for the comparison.
        encoder: the model with anatomy labels: this one, or an imported copy; None where none is known.
        nodes: the nodes of the main graph, without those that only hold a constant.
        reads: what each node reads: its inputs, then what its subgraphs capture.
        readers: value -> (node, slot) of everything that reads it.
        constants: value -> tensor, of initializers and constant nodes alike.
        labels: where in the anatomy a node is; nodes outside are left out.
    """

    model: ir.Model
    path: Path | None = None
    canonical: bool = False
    encoder: ir.Model | None = None
    nodes: list[ir.Node] = field(default_factory=list)
    reads: dict[ir.Node, list[ir.Value | None]] = field(default_factory=dict)
    readers: dict[ir.Value, list[tuple[ir.Node, int]]] = field(default_factory=dict)
    constants: dict[ir.Value, ir.TensorProtocol] = field(default_factory=dict)
    labels: dict[ir.Node, Label] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        graph.sort()
        for value in graph.initializers.values():
            if value.const_value is not None:
                self.constants[value] = value.const_value
        for node in graph:
            tensor = _held(node)
            if tensor is not None:
                self.constants[node.outputs[0]] = tensor
                continue
            self.nodes.append(node)
            self.reads[node] = [*node.inputs, *captured(node)]
            for slot, read in enumerate(self.reads[node]):
                if read is not None:
                    self.readers.setdefault(read, []).append((node, slot))
            if ROLE_KEY in node.metadata_props:
                self.labels[node] = node.metadata_props.get(LAYER_KEY, ""), node.metadata_props[ROLE_KEY]
        if self.labels:
            self.encoder = self.model

    @property
    def compiled(self) -> bool:
        """Was it written by `bqc compile`?"""
        return is_compiled(self.model)

    @property
    def inputs(self) -> list[ir.Value]:
        """Graph inputs that are no initializers too."""
        return [value for value in self.model.graph.inputs if value not in self.constants]

    def label(self, node: ir.Node) -> Label:
        """Layer and role of a node."""
        return self.labels.get(node, NOWHERE)

    def label_of(self, value: ir.Value) -> Label:
        """Layer and role of a constant: its own, or those of the first node that reads it."""
        if ROLE_KEY in value.metadata_props:
            return value.metadata_props.get(LAYER_KEY, ""), value.metadata_props[ROLE_KEY]
        labels = (self.label(node) for node, _ in self.readers.get(value, []))
        return next((label for label in labels if label != NOWHERE), NOWHERE)

    def annotate(self) -> None:
        """Label the nodes of a raw encoder by importing a second copy of its file; nothing where there is none."""
        if self.encoder is not None or self.path is None:
            return
        try:
            copy = load(self.path)
            names = {node: node.name for node in copy.graph}
            self.encoder, _ = import_model(copy)
        except BqcError:
            return
        by_value, by_name = _labels(self.encoder.graph, names)
        for node in self.nodes:
            found = by_value.get(node.outputs[0].name) or by_name.get(node.name)
            if found is not None:
                self.labels[node] = found
        for node in reversed(self.nodes):
            readers = {self.label(n) for out in node.outputs for n, _ in self.readers.get(out, [])}
            if node not in self.labels and len(readers) == 1 and NOWHERE not in readers:
                self.labels[node] = readers.pop()


def _held(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return ir.convenience.get_const_tensor(node.outputs[0])


def _labels(
    nodes: Iterable[ir.Node], names: Mapping[ir.Node, str | None]
) -> tuple[dict[str | None, Label], dict[str | None, Label]]:
    """Labels of an imported graph by what the original file calls the values, and by what it calls the nodes.

    ``names`` are those that nodes which import left in place had before.
    """
    by_value: dict[str | None, Label] = {}
    by_name: dict[str | None, Label] = {}
    for node in nodes:
        if ROLE_KEY in node.metadata_props:
            label = node.metadata_props.get(LAYER_KEY, ""), node.metadata_props[ROLE_KEY]
            by_value.update((out.name, label) for out in node.outputs)
            for name in (names.get(node), *sources([node]).split(",")):
                by_name.setdefault(name, label)
    return by_value, by_name

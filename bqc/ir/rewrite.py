"""Replacing values in a graph while outputs, names and lineage survive."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
from onnx_ir.passes import common

from bqc.ir.anatomy import SOURCE_KEY

__all__ = ["between", "drop_dead", "sources", "take_place"]


def take_place(old: ir.Value, new: ir.Value) -> None:
    """`new` is read wherever `old` was, and inherits its name and, for a graph output, its type."""
    name, kind, shape = old.name, old.type, old.shape
    output = old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    new.name = name
    if output:
        new.type, new.shape = kind, shape


def drop_dead(model: ir.Model) -> None:
    """Remove nodes and initializers that no output needs; graph inputs stay."""
    common.RemoveUnusedNodesPass()(model)


def sources(nodes: Iterable[ir.Node]) -> str:
    """Lineage: the source nodes that a new node stands for, comma separated."""
    names: list[str] = []
    for node in nodes:
        name = node.metadata_props.get(SOURCE_KEY) or node.name or node.outputs[0].name or ""
        names.extend(n for n in name.split(",") if n and n not in names)
    return ",".join(names)


def between(output: ir.Value, stop: Iterable[ir.Value]) -> list[ir.Node]:
    """The nodes that data flows through from the values `stop` to `output`."""
    ends = set(stop)
    found: dict[ir.Node, None] = {}
    queue = [output]
    while queue:
        value = queue.pop()
        node = value.producer()
        if value in ends or node is None or node in found:
            continue
        found[node] = None
        queue.extend(v for v in node.inputs if v is not None and not v.is_initializer())
    return list(found)[::-1]

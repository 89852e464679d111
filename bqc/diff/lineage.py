"""Aligning by what passes wrote down: which value of the float graph an operator computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from bqc.diff.view import View
from bqc.ir.anatomy import SOURCE_KEY, VALUE_KEY, layer, role
from bqc.ir.rewrite import sources
from bqc.ops.registry import DOMAIN
from bqc.pipeline.running import LINEAGE_KEY

__all__ = ["absorbed", "made_by", "seeds", "stands_for"]


def made_by(node: ir.Node) -> str:
    """The pass that made a node; empty where none is recorded."""
    return node.metadata_props.get(LINEAGE_KEY, "")


def stands_for(node: ir.Node) -> str | None:
    """The `value_key` that an operator of ``ai.bqc`` records; None for other nodes."""
    # Rewriting hands metadata on to whatever it makes, and then it says nothing about standard nodes.
    return node.metadata_props.get(VALUE_KEY) if node.domain == DOMAIN else None


def seeds(a: View, b: View) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Pairs of a node of one model and the operator of the other that computes its value."""
    for one, other in _found(a, b):
        yield other, one
    yield from _found(b, a)


def _found(plain: View, folded: View) -> Iterator[tuple[ir.Node, ir.Node]]:
    """(operator of ``folded``, node of ``plain``), by recorded place, else by the last source node's name."""
    places: dict[str, ir.Node] = {}
    names: dict[str, ir.Node] = {}
    for node in plain.nodes:
        if node.domain != DOMAIN:
            if role(node) is not None:
                places[f"{layer(node)}:{role(node)}:{node.op_type}"] = node
            names[sources([node])] = node
    for node in folded.nodes:
        if node.domain != DOMAIN:
            continue
        place, known = stands_for(node), node.metadata_props.get(SOURCE_KEY, "")
        match = places.get(place) if place else names.get(known.rpartition(",")[2])
        if match is not None:
            yield node, match


def absorbed(view: View, partner: Mapping[ir.Node, ir.Node]) -> dict[ir.Node, ir.Node]:
    """Unmatched nodes all of whose results go to nodes that an operator of the other model stands for.

    Where several operators of one kind do (each attention makes its own mask), it is the first.
    """
    found: dict[ir.Node, ir.Node] = {}
    for node in reversed(view.nodes):
        if node in partner:
            continue
        readers = [reader for out in node.outputs for reader, _ in view.readers.get(out, [])]
        owners = [found.get(reader) or partner.get(reader) for reader in readers]
        kinds = {None if owner is None else owner.op_type for owner in owners}
        owner = owners[0] if len(kinds) == 1 else None
        if owner is not None and owner.domain == DOMAIN:
            found[node] = owner
    return found

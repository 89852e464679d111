"""Aligning by what passes wrote down: which value of the float graph an operator computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from bqc.diff.view import NOWHERE, Label, View
from bqc.ir.anatomy import SOURCE_KEY, VALUE_KEY, layer, role
from bqc.ir.rewrite import sources
from bqc.ops.registry import DOMAIN
from bqc.pipeline.running import LINEAGE_KEY

__all__ = ["absorbed", "common_label", "is_folded", "made_by", "seeds"]


def made_by(node: ir.Node) -> str:
    """The pass that made a node; empty where none is recorded."""
    return node.metadata_props.get(LINEAGE_KEY, "")


def is_folded(node: ir.Node) -> bool:
    """Is it an operator of ``ai.bqc``, which may stand for several nodes?"""
    return node.domain == DOMAIN


def common_label(a: View, one: ir.Node, b: View, other: ir.Node) -> Label:
    """Layer and role of two matched nodes: those of the float one, as an operator is labelled by where it starts."""
    labels = [a.label(one), b.label(other)]
    if is_folded(one) and not is_folded(other):
        labels.reverse()
    return labels[0] if labels[0] != NOWHERE else labels[1]


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
        if not is_folded(node):
            if role(node) is not None:
                places[f"{layer(node)}:{role(node)}:{node.op_type}"] = node
            names[sources([node])] = node
    for node in folded.nodes:
        if not is_folded(node):
            continue
        place, known = node.metadata_props.get(VALUE_KEY), node.metadata_props.get(SOURCE_KEY, "")
        match = places.get(place) if place else names.get(known.rpartition(",")[2])
        if match is not None:
            yield node, match


def absorbed(view: View, partner: Mapping[ir.Node, ir.Node]) -> dict[ir.Node, tuple[ir.Node, ...]]:
    """Unmatched nodes all of whose results go to nodes that operators of the other model stand for, with these.

    They are of one kind: each attention makes its own mask.
    """
    found: dict[ir.Node, tuple[ir.Node, ...]] = {}
    for node in reversed(view.nodes):
        if node in partner:
            continue
        readers = [reader for out in node.outputs for reader, _ in view.readers.get(out, [])]
        owners: dict[ir.Node | None, None] = {}
        for reader in readers:
            owners.update(dict.fromkeys(found.get(reader, (partner.get(reader),))))
        known = tuple(owner for owner in owners if owner is not None and is_folded(owner))
        if known and len(known) == len(owners) and len({owner.op_type for owner in known}) == 1:
            found[node] = known
    return found

"""What the rules for fused operators share: find the node, write what it computes, replace it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from bqc.ir.build import Writer, dims
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import NoMatch, explanation
from bqc.ir.rewrite import sources, take_place

__all__ = ["CONTRIB", "Rule", "apply", "fed", "refuse_unless"]

CONTRIB = "com.microsoft"

Rule = Callable[[Writer, ir.Node], Sequence["ir.Value | None"]]
"""Writes what a node computes and returns its outputs; raises NoMatch for what standard operators cannot say."""


def apply(
    model: ir.Model, rule_name: str, rules: Mapping[str, Rule], domain: str = CONTRIB
) -> ir.passes.PassResult:
    """Replace every node of the domain that has a rule; one that the rule refuses stays and is explained."""
    graph, count = model.graph, 0
    for node in list(graph):
        rule = rules.get(node.op_type) if node.domain == domain else None
        if rule is None:
            continue
        w = Writer(graph, source=sources([node]))
        try:
            made = rule(w, node)
            _check_outputs(node, made)
        except NoMatch as no:
            explanation(model).add(rule_name, node, str(no), no.depth)
            continue
        if not may_rewrite(node):
            continue
        graph.insert_before(node, w.nodes)
        for old, new in zip(node.outputs, made, strict=False):
            if new is not None:
                if new.shape is None:
                    new.shape = None if old.shape is None else ir.Shape(dims(old) or [])
                take_place(old, new)
        graph.remove(node, safe=True)
        count += 1
    return ir.passes.PassResult(model, count > 0)


def fed(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input: None where it is left out or empty."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.name == "" else value


def refuse_unless(holds: bool, why: str) -> None:
    """The node stays as it is, and `why` is reported."""
    if not holds:
        raise NoMatch(why, 4)


def _check_outputs(node: ir.Node, made: Sequence[ir.Value | None]) -> None:
    for index, old in enumerate(node.outputs):
        used = bool(old.uses()) or old.is_graph_output()
        if used and (index >= len(made) or made[index] is None):
            raise NoMatch(f"its output {index} is used, which standard operators do not give", 3)

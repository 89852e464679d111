"""What differs between two aligned graphs, apart from weights: the signature, nodes, attributes, wiring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from bqc.diff.alignment import Alignment
from bqc.diff.hashing import attributes_of, operator_name
from bqc.diff.lineage import common_label, is_folded, made_by
from bqc.diff.view import Label, View
from bqc.ir.structure import function_digest

__all__ = ["NodeChange", "SignatureChange", "node_changes", "signature_changes"]

_SHOWN = 80
"""Characters of an attribute's value."""


@dataclass(frozen=True)
class SignatureChange:
    """A difference of inputs, outputs, opsets or functions, in words.

    Attributes:
        kind: ``renamed``, ``added``, ``removed``, ``changed`` or ``rewired``.
        what: ``input``, ``output``, ``opset`` or ``function``.
        a, b: how either model has it; empty where it has it not.
    """

    kind: str
    what: str
    a: str
    b: str


@dataclass(frozen=True)
class NodeChange:
    """A difference of nodes.

    Attributes:
        kind: ``added`` (only in the second), ``removed``, ``changed`` (attributes or inputs), ``replaced`` (another
            operator), ``fused`` (one operator for several nodes).
        layer, role: where in the anatomy; empty outside.
        a, b: the nodes of either model, as ``operator name``.
        made_by: the pass that did it, if the file says.
        details: attributes and inputs that differ.
    """

    kind: str
    layer: str
    role: str
    a: list[str]
    b: list[str]
    made_by: str = ""
    details: list[str] = field(default_factory=list)


def signature_changes(a: View, b: View, alignment: Alignment) -> list[SignatureChange]:
    """Inputs, outputs, opsets of the domains in use, and function bodies."""
    ends = alignment.ends
    found = []
    for what, pairs in (("input", ends.inputs), ("output", ends.outputs)):
        for one, other in pairs:
            if one.name != other.name:
                found.append(SignatureChange("renamed", what, one.name or "", other.name or ""))
            if _type(one) != _type(other):
                found.append(SignatureChange("changed", what, _described(one), _described(other)))
    for one, other in ends.outputs:
        constant = one in a.constants, other in b.constants
        if (
            not all(constant)
            and not alignment.corresponds(one, other)
            and not _unmatched(alignment, one, other)
        ):
            found.append(SignatureChange("rewired", "output", _source(one), _source(other)))
    outputs = {*a.model.graph.outputs, *b.model.graph.outputs}
    for kind, values in zip(("removed", "added"), ends.only, strict=True):
        for value in values:
            what = "output" if value in outputs else "input"
            texts = (_described(value), "") if kind == "removed" else ("", _described(value))
            found.append(SignatureChange(kind, what, *texts))
    return found + list(_opsets(a, b)) + list(_functions(a, b))


def node_changes(a: View, b: View, alignment: Alignment) -> list[NodeChange]:
    """Every difference of nodes, those of the first model in its order, then what only the second has."""
    members: dict[ir.Node, list[ir.Node]] = {}
    for node, owners in alignment.absorbed.items():
        if len(owners) == 1:
            members.setdefault(owners[0], []).append(node)
    found = _shared(a, b, alignment)
    for node in a.nodes:
        twin = alignment.partner.get(node)
        if twin is None:
            if node not in alignment.absorbed:
                found.append(NodeChange("removed", *a.label(node), [_named(node)], [], made_by(node)))
            continue
        ours, theirs = _group(a, node, members.get(twin, [])), _group(b, twin, members.get(node, []))
        change = _changed(a, b, alignment, node, twin, ours, theirs)
        if change is not None:
            found.append(change)
    for node in b.nodes:
        if node not in alignment.partner and node not in alignment.absorbed:
            found.append(NodeChange("added", *b.label(node), [], [_named(node)], made_by(node)))
    return found


def _changed(
    a: View,
    b: View,
    alignment: Alignment,
    node: ir.Node,
    twin: ir.Node,
    ours: list[ir.Node],
    theirs: list[ir.Node],
) -> NodeChange | None:
    label = common_label(a, node, b, twin)
    texts = [_named(n) for n in ours], [_named(n) for n in theirs]
    # Reading a float model leaves the names of import's passes on it; what compiled the other did the change.
    first, second = (node, twin) if is_folded(node) and not is_folded(twin) else (twin, node)
    by = made_by(first) or made_by(second)
    if is_folded(node) != is_folded(twin) or len(ours) + len(theirs) > 2:
        return NodeChange("fused", *label, *texts, by)
    if operator_name(node) != operator_name(twin) and not _same_body(a, b, node, twin):
        return NodeChange("replaced", *label, *texts, by)
    details = [*_attributes(a, b, node, twin), *_wiring(a, b, alignment, node, twin)]
    return NodeChange("changed", *label, *texts, by, details) if details else None


def _shared(a: View, b: View, alignment: Alignment) -> list[NodeChange]:
    """Nodes whose work several operators of the other model repeat."""
    groups: dict[tuple[Label, tuple[ir.Node, ...]], list[ir.Node]] = {}
    for view in (a, b):
        for node in view.nodes:
            owners = alignment.absorbed.get(node, ())
            if len(owners) > 1:
                groups.setdefault((view.label(node), owners), []).append(node)
    found = []
    for (label, owners), nodes in groups.items():
        texts = [_named(n) for n in nodes], [_named(n) for n in owners]
        ours, theirs = texts if nodes[0] in a.reads else texts[::-1]
        found.append(NodeChange("fused", *label, ours, theirs, made_by(owners[0]) or made_by(nodes[0])))
    return found


def _group(view: View, last: ir.Node, others: list[ir.Node]) -> list[ir.Node]:
    chosen = {last, *others}
    return [last] if len(chosen) == 1 else [node for node in view.nodes if node in chosen]


def _attributes(a: View, b: View, node: ir.Node, twin: ir.Node) -> Iterator[str]:
    ours, theirs = attributes_of(a, node), attributes_of(b, twin)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield f"{name}: {_value(node, name)} -> {_value(twin, name)}"
    if len(node.outputs) != len(twin.outputs):
        yield f"outputs: {len(node.outputs)} -> {len(twin.outputs)}"


def _value(node: ir.Node, name: str) -> str:
    attribute = node.attributes.get(name)
    if attribute is None:
        return "default"
    if attribute.type is ir.AttributeType.GRAPH:
        text = f"subgraph of {', '.join(inner.op_type for inner in attribute.as_graph()) or 'no nodes'}"
    elif attribute.type is ir.AttributeType.GRAPHS:
        text = f"{len(attribute.as_graphs())} subgraphs"
    else:
        text = " ".join(str(attribute.value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _wiring(a: View, b: View, alignment: Alignment, node: ir.Node, twin: ir.Node) -> Iterator[str]:
    """Inputs that come from elsewhere, unless the node they come from is new or gone, which is told already."""
    ours, theirs = a.reads[node], b.reads[twin]
    if len(ours) != len(theirs):
        yield f"inputs: {len(ours)} -> {len(theirs)}"
    for slot, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        constant = [value is not None and value in view.constants for view, value in ((a, one), (b, other))]
        if all(constant) or alignment.corresponds(one, other) or _unmatched(alignment, one, other):
            continue
        yield f"input {slot}: {_source(one)} -> {_source(other)}"


def _unmatched(alignment: Alignment, *values: ir.Value | None) -> bool:
    made = [None if value is None else value.producer() for value in values]
    return any(node is not None and _plain_node(node) and node not in alignment.partner for node in made)


def _plain_node(node: ir.Node) -> bool:
    return node.op_type != "Constant"


def _source(value: ir.Value | None) -> str:
    if value is None:
        return "nothing"
    node = value.producer()
    if node is None or node.op_type == "Constant":
        return value.name or "a constant"
    index = value.index()
    return _named(node) + (f" output {index}" if index else "")


def _named(node: ir.Node) -> str:
    name = node.name or node.outputs[0].name or ""
    return f"{operator_name(node)} {name}".strip()


def _type(value: ir.Value) -> tuple[str, str]:
    """Element type and shape; what a symbolic dimension is called does not matter."""
    dims = None if value.shape is None else [d if isinstance(d, int) else "?" for d in value.shape]
    return str(value.dtype), str(dims)


def _described(value: ir.Value) -> str:
    kind = "" if value.dtype is None else f" {value.dtype.name.lower()}"
    dims = "" if value.shape is None else f"[{', '.join(str(d) for d in value.shape)}]"
    return f"{value.name}{kind}{dims}"


def _same_body(a: View, b: View, node: ir.Node, twin: ir.Node) -> bool:
    bodies = [v.model.functions.get(n.op_identifier()) for v, n in ((a, node), (b, twin))]
    return bodies[0] is not None and bodies[1] is not None and len(set(map(function_digest, bodies))) == 1  # type: ignore[arg-type]


def _opsets(a: View, b: View) -> Iterator[SignatureChange]:
    used = [{("" if n.domain == "ai.onnx" else n.domain) for n in view.nodes} for view in (a, b)]
    for domain in sorted(used[0] & used[1]):
        versions = [view.model.graph.opset_imports.get(domain) for view in (a, b)]
        if versions[0] != versions[1]:
            texts = [f"{domain or 'ai.onnx'} {version}" for version in versions]
            yield SignatureChange("changed", "opset", texts[0], texts[1])


def _functions(a: View, b: View) -> Iterator[SignatureChange]:
    """Functions that both models call by one name, with different bodies; callers of others differ themselves."""
    for key in sorted(a.model.functions.keys() & b.model.functions.keys()):
        bodies = [function_digest(view.model.functions[key]) for view in (a, b)]
        if bodies[0] != bodies[1]:
            name = ".".join(part for part in key if part)
            yield SignatureChange("changed", "function", name, name)

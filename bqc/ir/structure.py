"""Are two graphs the same, names aside?

Every value gets a hash of how it is computed: operator, attributes, and the hashes of what it is computed from.
Inputs of the graph count by name, constants by type, shape and (where asked for) contents, outputs by name. Two
models are the same structure if their outputs have the same hashes; the order of nodes and all inner names do not
matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

__all__ = [
    "attribute_digests",
    "captured",
    "constant_digest",
    "difference",
    "digest",
    "function_digest",
    "is_small",
    "same_structure",
    "structural_hash",
]

_EXACT = 64


def structural_hash(model: ir.Model, *, values: bool = False) -> str:
    """A digest of what the graph computes, by structure.

    Constants of up to 64 numbers that are no vectors of weights (shapes, axes, scales) always count by value; with
    `values` every constant does, bit for bit.
    """
    hashes = _hashes(model, values)
    outputs = [(out.name or "", hashes[out]) for out in model.graph.outputs]
    return digest("model", *(f"{name}={found}" for name, found in outputs))


def same_structure(a: ir.Model, b: ir.Model, *, tolerance: float | None = None) -> bool:
    """Do both graphs have the same structure, and weights that differ by at most `tolerance` where it is given?"""
    return difference(a, b, tolerance=tolerance) is None


def difference(a: ir.Model, b: ir.Model, *, tolerance: float | None = None) -> str | None:
    """The first difference found, in words, or None."""
    if structural_hash(a) != structural_hash(b):
        return _explained(a, b)
    if tolerance is None:
        return None
    for one, other in zip(_constants(a), _constants(b), strict=True):
        assert one.const_value is not None
        assert other.const_value is not None, "constants have values"
        x, y = one.const_value.numpy(), other.const_value.numpy()
        gap = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max(initial=0.0))
        if gap > tolerance:
            return f"constants {one.name!r} and {other.name!r} differ by {gap:.3g}"
    return None


def digest(*parts: str) -> str:
    """A hash of texts, in order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_small(tensor: ir.TensorProtocol) -> bool:
    """Is it a shape, an axis, an index or a scale rather than a weight?"""
    return tensor.size <= _EXACT and (not tensor.dtype.is_floating_point() or tensor.size == 1)


def constant_digest(value: ir.Value, values: bool) -> str:
    """Of an initializer: type and shape; contents too where it `is_small` or `values` asks for them."""
    tensor = value.const_value
    if tensor is None:
        return digest("constant", str(value.type))
    return _tensor_digest(tensor, values)


def attribute_digests(node: ir.Node) -> dict[str, str]:
    """Of each attribute's value, by name; subgraphs count by structure and constants, what they capture by order."""
    outer = {value: digest("outer", str(at)) for at, value in enumerate(captured(node))}
    return {name: _attribute(attribute, outer) for name, attribute in sorted(node.attributes.items())}


def function_digest(function: ir.Function) -> str:
    """Of a function's body: inputs count by position, attributes by name."""
    found = {value: digest("input", str(at)) for at, value in enumerate(function.inputs)}
    _add_nodes(found, function, {})
    return digest("function", *sorted(function.attributes), *(found[out] for out in function.outputs))


def captured(node: ir.Node) -> list[ir.Value]:
    """Values of enclosing graphs that the node's subgraphs read, in the order in which they do."""
    found: dict[ir.Value, None] = {}
    for graph in (graph for attribute in node.attributes.values() for graph in _graphs(attribute)):
        own = {*graph.inputs, *graph.initializers.values(), *(out for n in graph for out in n.outputs)}
        reads = [v for n in graph for v in (*n.inputs, *captured(n)) if v is not None]
        found.update(dict.fromkeys(v for v in (*reads, *graph.outputs) if v not in own))
    return list(found)


def _graphs(attribute: ir.Attr) -> Iterable[ir.Graph]:
    if attribute.ref_attr_name:
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else []


def _attribute(attribute: ir.Attr, outer: Mapping[ir.Value, str]) -> str:
    if attribute.ref_attr_name:
        return digest("attribute", attribute.ref_attr_name)
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor_digest(attribute.as_tensor(), True)
    if attribute.type == ir.AttributeType.FLOAT:
        return f"{attribute.as_float():.5g}"
    if graphs := _graphs(attribute):
        return digest(*(_subgraph(graph, outer) for graph in graphs))
    return str(attribute.value)


def _hashes(model: ir.Model, values: bool) -> dict[ir.Value, str]:
    found: dict[ir.Value, str] = {}
    for value in model.graph.inputs:
        found[value] = digest("input", value.name or "", str(value.type))
    for value in model.graph.initializers.values():
        found.setdefault(value, constant_digest(value, values))
    _add_nodes(found, model.graph, {key: function_digest(f) for key, f in model.functions.items()})
    return found


def _add_nodes(
    found: dict[ir.Value, str],
    nodes: Iterable[ir.Node],
    functions: Mapping[tuple[str, str, str], str],
) -> None:
    for node in nodes:
        attributes = attribute_digests(node)
        inputs = ["" if v is None else found[v] for v in (*node.inputs, *captured(node))]
        domain = "" if node.domain == "ai.onnx" else node.domain
        body = functions.get(node.op_identifier(), "")
        for index, out in enumerate(node.outputs):
            found[out] = digest(domain, node.op_type, body, str(index), str(attributes), *inputs)


def _subgraph(graph: ir.Graph, outer: Mapping[ir.Value, str]) -> str:
    found = dict(outer)
    found.update((value, digest("input", str(at))) for at, value in enumerate(graph.inputs))
    found.update((value, constant_digest(value, True)) for value in graph.initializers.values())
    _add_nodes(found, graph, {})
    return digest("graph", *(found[out] for out in graph.outputs))


def _tensor_digest(tensor: ir.TensorProtocol, values: bool) -> str:
    small = is_small(tensor)
    if not (values or small):
        return digest("constant", tensor.dtype.name, str(tensor.shape))
    array = np.asarray(tensor.numpy())
    # A number that was computed in two ways may differ in its last digits.
    text = f"{array.reshape(()):.5g}" if small and array.dtype == np.float32 and not values else None
    return digest("constant", tensor.dtype.name, str(tensor.shape), text or array.tobytes().hex())


def _constants(model: ir.Model) -> list[ir.Value]:
    """Constants in the order in which a walk from the outputs meets them: the same for equal structures."""
    found: list[ir.Value] = []
    seen: set[ir.Value] = set()
    stack = list(reversed(model.graph.outputs))
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            if value.const_value is not None:
                found.append(value)
        else:
            stack.extend(v for v in reversed(node.inputs) if v is not None)
    return found


def _explained(a: ir.Model, b: ir.Model) -> str:
    counts = [Counter(node.op_type for node in model.graph) for model in (a, b)]
    if counts[0] != counts[1]:
        return f"operators differ: {dict(counts[0] - counts[1])} against {dict(counts[1] - counts[0])}"
    known = set(_hashes(b, False).values())
    first = _hashes(a, False)
    for node in a.graph:
        if first[node.outputs[0]] not in known:
            return f"nothing in the other graph is {node.op_type} {node.name!r} of the same operands"
    return "outputs are named otherwise"

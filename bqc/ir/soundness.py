"""What must hold of a model's graph before anybody walks it: names once, no cycles, no endless functions.

Works on the protobuf, whose nesting the parser has already bounded, so that nothing here can recurse or grow
further than the file itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import onnx

__all__ = ["Damage", "all_tensors", "check_graphs"]

NODE_LIMIT = 1_000_000
"""Nodes that a model may have once its functions are written out."""
INPUT_LIMIT = 1 << 26
"""Elements that an input may be declared with, in the dimensions that are fixed."""

Function = tuple[str, str, str]


class Damage(Exception):
    """The graph cannot be right; the text says why."""


def check_graphs(model: onnx.ModelProto) -> None:
    """Raises Damage.

    For duplicate names, cycles, nodes that make nothing, text that is none, inputs larger than any, and functions that
    call themselves or multiply too often.
    """
    _check_notes("the model", model.metadata_props)
    for tensor in all_tensors(model):
        _check_notes(f"weight {tensor.name!r}", tensor.metadata_props)
    _check_graph("the graph", model.graph)
    _check_inputs(model.graph)
    for function in model.functions:
        where = f"function {function.name!r}"
        _check_nodes(where, function.node)
        _check_names(where, function.input, (), function.node)
        _check_order(where, function.node)
    _check_functions(model)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the file: initializers and attributes, in subgraphs and functions too."""
    graphs = [model.graph, *(g for f in model.functions for n in f.node for g in _subgraphs(n))]
    nodes = [node for function in model.functions for node in function.node]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes += graph.node
        graphs += [inner for node in graph.node for inner in _subgraphs(node)]
    for node in nodes:
        for attribute in node.attribute:
            yield from _given(attribute, "t", "tensors")
            for sparse in _given(attribute, "sparse_tensor", "sparse_tensors"):
                yield from (sparse.values, sparse.indices)


def _given(attribute: onnx.AttributeProto, one: str, many: str) -> Iterator[onnx.SparseTensorProto]:
    if attribute.HasField(one):
        yield getattr(attribute, one)
    yield from getattr(attribute, many)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for attribute in node.attribute for graph in _given(attribute, "g", "graphs")]


def _check_graph(where: str, graph: onnx.GraphProto) -> None:
    given = [tensor.name for tensor in graph.initializer]
    given += [sparse.values.name for sparse in graph.sparse_initializer]
    for name, count in Counter(given).items():
        if count > 1:
            raise Damage(f"{where} has {count} initializers called {name!r}")
    _check_names(where, [value.name for value in graph.input], given, graph.node)
    _check_order(where, graph.node)
    _check_nodes(where, graph.node)
    _check_notes(where, graph.metadata_props)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _check_notes(f"value {value.name!r}", value.metadata_props)
    for node in graph.node:
        for inner in _subgraphs(node):
            _check_graph(f"the graph inside node {node.name!r}", inner)


def _check_inputs(graph: onnx.GraphProto) -> None:
    """Import feeds them; weights among them have their own bounds."""
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if value.name not in weights and math.prod(sizes) > INPUT_LIMIT:
            raise Damage(f"input {value.name!r} is declared {sizes}: more than {INPUT_LIMIT} elements")


def _check_nodes(where: str, nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        if not any(node.output):
            raise Damage(f"node {node.name!r} ({node.op_type}) of {where} makes no value")
        _check_notes(f"node {node.name!r}", node.metadata_props)
        for attribute in node.attribute:
            for text in (attribute.s, *attribute.strings):
                if not _is_text(text):
                    raise Damage(
                        f"attribute {attribute.name!r} of node {node.name!r} ({node.op_type}) is no text"
                    )


def _check_notes(where: str, notes: Iterable[onnx.StringStringEntryProto]) -> None:
    """What is no UTF-8 comes out of the parser as bytes."""
    for note in notes:
        if not (isinstance(note.key, str) and isinstance(note.value, str)):
            raise Damage(f"{where} has metadata {str(note.key)[:40]!r} that is no text")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_names(
    where: str, inputs: Sequence[str], given: Sequence[str], nodes: Sequence[onnx.NodeProto]
) -> None:
    for name, count in Counter(inputs).items():
        if count > 1:
            raise Damage(f"{where} has {count} inputs called {name!r}")
    known = {*inputs, *given}
    for node in nodes:
        for name in node.output:
            if name and name in known:
                raise Damage(f"{where} makes the value {name!r} twice, the second time in node {node.name!r}")
            known.add(name)


def _check_order(where: str, nodes: Sequence[onnx.NodeProto]) -> None:
    """Nodes may stand in any order, but there must be one in which they can run."""
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = [{maker[name] for name in _reads(node) if name in maker} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    for i, needed in enumerate(waits):
        for j in needed:
            users[j].append(i)
    left = [len(needed) for needed in waits]
    ready = [i for i, count in enumerate(left) if not count]
    done = 0
    while ready:
        done += 1
        for user in users[ready.pop()]:
            left[user] -= 1
            if not left[user]:
                ready.append(user)
    if done < len(nodes):
        stuck = next(node for node, count in zip(nodes, left, strict=True) if count)
        raise Damage(f"{where} has a cycle through node {stuck.name!r} ({stuck.op_type})")


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    yield from node.input
    for graph in _subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own.update(name for inner in graph.node for name in inner.output)
        yield from (name for inner in graph.node for name in _reads(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)


def _check_functions(model: onnx.ModelProto) -> None:
    bodies: dict[Function, Counter[Function]] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in bodies:
            raise Damage(f"function {function.name!r} is there twice")
        bodies[key] = _calls(function.node)
    sizes: dict[Function, int] = {}
    for key in bodies:
        _measure(key, bodies, sizes)
    if _written_out(_calls(model.graph.node), sizes) > NODE_LIMIT:
        raise Damage(f"its functions written out are more than {NODE_LIMIT} nodes")


def _measure(key: Function, bodies: dict[Function, Counter[Function]], sizes: dict[Function, int]) -> None:
    """Nodes of a function written out, by a walk with a stack of its own: chains of calls can be long."""
    path = [(key, iter(bodies[key]))]
    on_path = {key}
    while path:
        top, calls = path[-1]
        callee = next((c for c in calls if c in bodies and c not in sizes), None)
        if top in sizes or callee is None:
            sizes[top] = _written_out(bodies[top], sizes)
            on_path.discard(path.pop()[0])
        elif callee in on_path:
            raise Damage(f"function {callee[1]!r} calls itself")
        else:
            path.append((callee, iter(bodies[callee])))
            on_path.add(callee)


def _written_out(calls: Counter[Function], sizes: dict[Function, int]) -> int:
    # No larger than matters: doubling a thousand times over makes numbers that nobody can print.
    return min(sum(count * sizes.get(callee, 1) for callee, count in calls.items()), NODE_LIMIT + 1)


def _calls(nodes: Sequence[onnx.NodeProto]) -> Counter[Function]:
    """How often each operator or function is called, in subgraphs too."""
    calls: Counter[Function] = Counter()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        calls[(node.domain, node.op_type, node.overload)] += 1
        for graph in _subgraphs(node):
            stack.extend(graph.node)
    return calls

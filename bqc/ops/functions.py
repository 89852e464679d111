"""The bodies of operators as model-local functions of a file."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from bqc.ops.registry import DOMAIN, OPERATORS, OPSET, VERSION

__all__ = ["functions_for"]


def functions_for(names: Iterable[str]) -> list[onnx.FunctionProto]:
    """The bodies of the named operators and of all they call, callees first, as model-local functions."""
    ordered: dict[str, onnx.FunctionProto] = {}

    def visit(body: Any) -> None:
        if body.name in ordered:
            return
        called = body.function_ir.get_called_functions()
        for name in sorted(called):
            visit(called[name])
        proto = body.to_function_proto()
        # Calls made inside If and Loop branches do not reach the import list by themselves.
        del proto.opset_import[:]
        proto.opset_import.extend(
            [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, VERSION)]
        )
        _order_states(proto)
        _shorten(proto)
        ordered[body.name] = proto

    for name in sorted(names):
        visit(OPERATORS[name].body)
    return list(ordered.values())


def _shorten(graph: onnx.FunctionProto | onnx.GraphProto) -> None:
    """Drop names that onnxscript numbers and nothing reads: those of nodes, and ``tmp`` of values."""
    for node in graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [_short(name) for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _shorten(attribute.g)
                for value in (*attribute.g.input, *attribute.g.output):
                    value.name = _short(value.name)


def _short(name: str) -> str:
    head, _, number = name.partition("_")
    return f"_{number}" if head == "tmp" and (number.isdecimal() or not number) else name


def _order_states(proto: onnx.FunctionProto) -> None:
    """Loops carry their values in order of name, and name them after it.

    onnxscript takes them from a set: in another order, with other numbers, in each process.
    """
    for node in proto.node:
        if node.op_type != "Loop":
            continue
        (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
        count = len(node.input) - 2
        order = sorted(range(count), key=lambda i: body.output[1 + i].name)
        for values, first in ((node.input, 2), (node.output, 0), (body.input, 2), (body.output, 1)):
            moved = [copy.deepcopy(values[first + i]) for i in order]
            kept = [*list(values)[:first], *moved, *list(values)[first + count :]]
            del values[:]
            values.extend(kept)
        states = [value.name for value in body.output[1 : 1 + count]]
        inner = {v.name: f"{state}_before" for v, state in zip(body.input[2:], states, strict=True)}
        for value in body.input[2:]:
            value.name = inner[value.name]
        _rename(body.node, inner)
        outer = {name: f"{state}_after" for name, state in zip(node.output, states, strict=False)}
        _rename(proto.node, outer)
        proto.output[:] = [outer.get(name, name) for name in proto.output]


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        for attribute in node.attribute:
            _rename(attribute.g.node, names)
            for output in attribute.g.output:
                output.name = names.get(output.name, output.name)

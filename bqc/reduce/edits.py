"""Smaller models out of a larger one. Each edit returns a new model that shares the weights, or None."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import ANATOMY_KEY
from bqc.ir.build import dims
from bqc.ir.inputs import INPUTS_KEY
from bqc.ir.rewrite import drop_dead
from bqc.ir.structure import captured
from bqc.pipeline.trial import snapshot

__all__ = ["alike", "bypassed", "only", "resized", "sizes"]

_TAKE_SHAPES = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}
"""Operator -> the input that is a shape; a part of a shape goes through Concat."""


def only(model: ir.Model, kept: Collection[int]) -> ir.Model | None:
    """The nodes of these numbers, in graph order; what they read of others becomes an input of the graph.

    Outputs are those of the graph that are left, and what is made and not read. None where a type is not known.
    """
    small = snapshot(model)
    graph = small.graph
    nodes = list(graph)
    left = [node for i, node in enumerate(nodes) if i in kept]
    gone = [node for i, node in enumerate(nodes) if i not in kept]
    stay = set(left)
    read = {value for node in left for value in (*node.inputs, *captured(node))}
    outputs = [value for value in graph.outputs if value.producer() in stay]
    outputs += [
        value
        for node in left
        for value in node.outputs
        if value.name and value not in outputs and value not in read
    ]
    graph.outputs.clear()
    for node in gone:
        for value in node.outputs:
            if value not in read:
                continue
            if value.type is None or value.shape is None:
                return None
            fed = ir.Value(name=f"{value.name}", type=value.type, shape=value.shape)
            value.replace_all_uses_with(fed)
            value.name = None
            graph.inputs.append(fed)
    graph.remove(gone, safe=True)
    if not outputs or any(value.type is None for value in outputs):
        return None
    graph.outputs.extend(outputs)
    return _tidy(small)


def alike(model: ir.Model) -> list[list[int]]:
    """Numbers of computed values and inputs (see `bypassed`) by type and shape, where there are several alike."""
    found: dict[tuple[object, ...], list[int]] = {}
    for i, value in enumerate(_values(model.graph)):
        shape = dims(value)
        if shape is not None and value.dtype is not None:
            found.setdefault((value.dtype, *shape), []).append(i)
    return sorted((group for group in found.values() if len(group) > 1), key=len, reverse=True)


def bypassed(model: ir.Model, late: int, early: int) -> ir.Model | None:
    """An earlier value is read in the place of a later one; what lies between goes, if nothing else reads it."""
    small = snapshot(model)
    values = _values(small.graph)
    old, new = values[late], values[early]
    if old.is_graph_output() and (new.is_graph_input() or new.is_graph_output()):
        return None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    return _tidy(small)


def sizes(model: ir.Model) -> tuple[list[int], list[int]]:
    """Sizes over 1, largest first: of the axes of weights, and those that are named in shapes."""
    axes: set[int] = set()
    named: set[int] = set()
    for value in model.graph.initializers.values():
        if _is_shape(value):
            named.update(int(n) for n in _array(value).reshape(-1) if n > 1)
        elif _is_float(value):
            axes.update(size for size in dims(value) or () if isinstance(size, int) and size > 1)
    return sorted(axes | named, reverse=True), sorted(named, reverse=True)


def resized(model: ir.Model, change: Mapping[int, int]) -> ir.Model:
    """Every axis of one of these sizes, and every number in a shape, gets the other size; weights are cut."""
    small = snapshot(model)
    graph = small.graph
    # What the metadata sums up is counted again where it is needed.
    for key in (ANATOMY_KEY, INPUTS_KEY):
        small.metadata_props.pop(key, None)
    for value in graph.initializers.values():
        shape = dims(value) or []
        if _is_shape(value):
            data = _array(value)
            value.const_value = ir.tensor(
                np.asarray([change.get(int(n), int(n)) for n in data.flat], data.dtype)
            )
        elif _is_float(value) and any(size in change for size in shape):
            part = tuple(slice(change.get(size, size)) for size in shape if isinstance(size, int))
            value.const_value = ir.tensor(np.ascontiguousarray(_array(value)[part]))
            value.shape = ir.Shape(
                [change.get(size, size) if isinstance(size, int) else size for size in shape]
            )
    for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
        shape = dims(value) or []
        if any(size in change for size in shape if isinstance(size, int)):
            value.shape = ir.Shape(
                [change.get(size, size) if isinstance(size, int) else size for size in shape]
            )
    return small


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _is_shape(value: ir.Value) -> bool:
    return value.dtype is ir.DataType.INT64 and any(
        use.op_type == "Concat" or _TAKE_SHAPES.get(use.op_type) == at for use, at in value.uses()
    )


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None, "constants have values"
    return np.asarray(value.const_value.numpy())


def _tidy(model: ir.Model) -> ir.Model:
    drop_dead(model)
    inputs = [value for value in model.graph.inputs if value.uses() or value.is_graph_output()]
    model.graph.inputs[:] = inputs
    return model

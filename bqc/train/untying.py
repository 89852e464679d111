"""Every use of a bias, norm or constant matrix gets an initializer of its own, as the model that was exported had it.

Exporters store equal initializers once: the norms of a fresh model, or its zero biases. Trained as one they would get
the sum of all gradients and stay equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import label, layer, role
from bqc.passes._graph import constant, produced_by
from bqc.passes.import_weights import free_name

__all__ = ["untie"]

_VECTORS = {"LayerNormalization": ((1, "weight"), (2, "bias")), "Add": ((0, "bias"), (1, "bias"))}
_MATRICES = {"MatMul": ((1, "weight"),), "Gather": ((0, "weight"),)}


@dataclass(frozen=True)
class _Use:
    """One place where a node reads an initializer.

    Attributes:
        owner: equal where the model itself shares the initializer.
        what: ``weight`` or ``bias``.
    """

    node: ir.Node
    index: int
    value: ir.Value
    owner: Hashable
    what: str


def untie(model: ir.Model) -> None:
    """Give what an annotated graph reads for several purposes an initializer for each, of the same contents.

    Shared stay: matrices of more than one number, since no two are equal by accident; the biases of linears whose
    matrices are shared; and the norms of layers whose matrices all are (ALBERT). New names depend on labels alone, so
    that every dialect of a graph gets the same ones.
    """
    # A bias is of its linear, so that matrices come first.
    for uses in (_matrices, _vectors):
        first: dict[ir.Value, Hashable] = {}
        made: dict[tuple[ir.Value, Hashable], ir.Value] = {}
        for use in list(uses(model)):
            if first.setdefault(use.value, use.owner) == use.owner:
                continue
            key = (use.value, use.owner)
            if key not in made:
                made[key] = _copy(model.graph, use)
            use.node.replace_input_with(use.index, made[key])


def _copy(graph: ir.Graph, use: _Use) -> ir.Value:
    data = constant(use.value)
    assert data is not None, "uses are of initializers"
    place = f"{layer(use.node)}.{role(use.node)}" if role(use.node) else use.node.outputs[0].name
    name = free_name(graph, f"bqc.{place}.{use.what}")
    tensor = ir.Tensor(np.array(data), name=name)
    made = ir.Value(name=name, type=use.value.type, shape=use.value.shape, const_value=tensor)
    made.meta.update(use.value.meta)
    if role(use.node):
        label(made, layer(use.node) or "", role(use.node) or "")
    graph.register_initializer(made)
    return made


def _matrices(model: ir.Model) -> Iterator[_Use]:
    """Uses of shared matrices of one number, zeros say."""
    filled = {value for value in model.graph.initializers.values() if _is_filled(value)}
    for node, owner in _owned(model):
        for index, what in _MATRICES.get(node.op_type, ()) if not node.domain else ():
            value = node.inputs[index]
            if value in filled and role(node):
                yield _Use(node, index, value, (owner, index), what)


def _vectors(model: ir.Model) -> Iterator[_Use]:
    """Uses of the vectors of norms and of the biases of linears; norms without a label if no matrix is shared."""
    alone = not any(_is_shared(value) for value in model.graph.initializers.values())
    for node, owner in _owned(model):
        for index, what in _VECTORS.get(node.op_type, ()) if not node.domain else ():
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or not _is_vector(value):
                continue
            if node.op_type == "Add":
                product = produced_by(node.inputs[1 - index], "MatMul")
                weight = None if product is None else product.inputs[1]
                if weight is not None and weight.is_initializer():
                    yield _Use(node, index, value, weight, what)
            elif role(node) or alone:
                yield _Use(node, index, value, (owner, index), what)


def _owned(model: ir.Model) -> Iterator[tuple[ir.Node, Hashable]]:
    """Nodes in graph order; those of layers that are one layer used repeatedly have the same owner."""
    same, seen = _repeated(model), Counter[Hashable]()
    for node in model.graph:
        of = (layer(node), role(node), node.op_type)
        seen[of] += 1
        yield node, (same.get(of[0] or "", of[0]), *of[1:], seen[of])


def _repeated(model: ir.Model) -> Mapping[str, str]:
    """Layer -> the first one with the same matrices."""
    found: dict[str, list[ir.Value]] = {}
    for node in model.graph:
        name, weight = layer(node), node.inputs[1] if node.op_type == "MatMul" else None
        if name is not None and weight is not None and weight.is_initializer() and not _is_filled(weight):
            found.setdefault(name, []).append(weight)
    first: dict[tuple[ir.Value, ...], str] = {}
    return {name: first.setdefault(tuple(weights), name) for name, weights in found.items()}


def _is_shared(value: ir.Value) -> bool:
    """Whether a matrix is multiplied by in several places."""
    tensor = value.const_value
    uses = [node for node, _ in value.uses() if node.op_type == "MatMul"]
    return len(uses) > 1 and tensor is not None and len(tensor.shape) == 2


def _is_vector(value: ir.Value) -> bool:
    tensor = value.const_value if value.is_initializer() else None
    return tensor is not None and len(tensor.shape) == 1 and tensor.dtype.is_floating_point()


def _is_filled(value: ir.Value) -> bool:
    """Whether a shared matrix has one number only; of others nobody asks."""
    if len(value.uses()) < 2 or value.const_value is None or len(value.const_value.shape) != 2:
        return False
    data = constant(value)
    return data is not None and bool(
        data.size and (data[0] == data[0, 0]).all() and (data == data[0, 0]).all()
    )

"""What passes after import share: `ai.bqc` nodes that keep labels, types and lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bqc.formats.stored import Parts
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, SOURCE_KEY, layer, role
from bqc.ir.build import SOURCE_LIMIT
from bqc.ir.rewrite import sources
from bqc.ops.registry import DOMAIN, OPERATORS, VERSION

__all__ = [
    "ELEMENTS_KEY",
    "FORMAT_KEY",
    "PART_KEY",
    "attributes_of",
    "block_node",
    "constant",
    "dims",
    "infer_types",
    "key_of",
    "made_with",
    "produced_by",
    "single_use",
    "standard_node",
    "weight_part",
    "weight_parts",
]

FORMAT_KEY = "bqc.format"
PART_KEY = "bqc.part"
ELEMENTS_KEY = "bqc.elements"


def key_of(item: ir.Node | ir.Value) -> str:
    """``layer:role`` of a labelled node or weight."""
    return f"{layer(item)}:{role(item)}"


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Attribute values by name."""
    return {name: attr.value for name, attr in node.attributes.items() if isinstance(attr, ir.Attr)}


def made_with(value: ir.Value) -> dict[str, Any]:
    """Attributes of the node that makes the value."""
    node = value.producer()
    assert node is not None, f"{value.name} is not made by a node"
    return attributes_of(node)


def produced_by(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """The node that makes the value, if it is of that type."""
    node = value.producer() if value is not None else None
    return node if node is not None and (node.op_type, node.domain) == (op_type, domain) else None


def single_use(value: ir.Value) -> ir.Node | None:
    """The only consumer of a value that is no graph output."""
    users = {use[0] for use in value.uses()}
    return next(iter(users)) if len(users) == 1 and not value.is_graph_output() else None


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Contents of an initializer."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def block_node(
    op_type: str,
    inputs: Sequence[ir.Value],
    attributes: Mapping[str, Any],
    *,
    like: ir.Node,
    replaces: Sequence[ir.Node] = (),
) -> ir.Node:
    """A node of ``ai.bqc`` with the labels of ``like`` and the lineage of what it replaces; types inferred.

    Attributes the caller leaves out take the operator's defaults.
    """
    operator = OPERATORS[op_type]
    full = {**operator.attributes, **attributes}
    outputs = operator.infer([dims(v) for v in inputs], full)
    node = ir.node(op_type, inputs, attributes=full, domain=DOMAIN, num_outputs=len(outputs), version=VERSION)
    _label(node, like, replaces)
    infer_types(node)
    return node


def standard_node(
    op_type: str,
    inputs: Sequence[ir.Value],
    attributes: Mapping[str, Any],
    *,
    like: ir.Node,
    dtype: ir.DataType,
    shape: Sequence[Any] | None = None,
) -> ir.Node:
    """A one-output node of the default domain with the labels of ``like``."""
    node = ir.node(op_type, inputs, attributes=attributes)
    _label(node, like, ())
    node.outputs[0].type = ir.TensorType(dtype)
    node.outputs[0].shape = None if shape is None else ir.Shape(shape)
    return node


def infer_types(node: ir.Node) -> None:
    """Write output types and shapes of an ``ai.bqc`` node from the registry; outputs of the graph keep theirs."""
    inputs = [dims(v) for v in node.inputs if v is not None]
    for output, (dtype, shape) in zip(
        node.outputs, OPERATORS[node.op_type].infer(inputs, attributes_of(node)), strict=True
    ):
        if output.is_graph_output():
            continue
        output.type = ir.TensorType(dtype)
        output.shape = ir.Shape(shape)


def weight_part(
    graph: ir.Graph, weight: ir.Value, part: str, data: NDArray[Any], fmt: str, elements: int
) -> ir.Value:
    """Register a part (codes, exponents) of a quantised weight; a part that is already there is shared."""
    name = f"{weight.name}.{part}"
    known = graph.initializers.get(name)
    if known is not None:
        return known
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
        shape=ir.Shape(data.shape),
        const_value=ir.Tensor(data, name=name),
        metadata_props={
            **{k: v for k, v in weight.metadata_props.items() if k in (LAYER_KEY, ROLE_KEY)},
            FORMAT_KEY: fmt,
            PART_KEY: part,
            **({ELEMENTS_KEY: str(elements)} if elements else {}),
        },
    )
    graph.register_initializer(value)
    return value


def weight_parts(graph: ir.Graph, weight: ir.Value, parts: Parts, fmt: str, elements: int) -> list[ir.Value]:
    """Register all parts of a quantised weight of so many elements."""
    counts = (elements, *[0] * (len(parts) - 1))
    return [
        weight_part(graph, weight, part, data, fmt, count)
        for (part, data), count in zip(parts.items(), counts, strict=True)
    ]


def _label(node: ir.Node, like: ir.Node, replaces: Sequence[ir.Node]) -> None:
    for key in (LAYER_KEY, ROLE_KEY):
        if key in like.metadata_props:
            node.metadata_props[key] = like.metadata_props[key]
    text = sources(replaces or [like])
    if text:
        node.metadata_props[SOURCE_KEY] = text[:SOURCE_LIMIT]


def dims(value: ir.Value) -> list[Any]:
    """Shape as a list of numbers, names and None."""
    if value.shape is None:
        raise ValueError(f"value {value.name!r} has no shape")
    return [d if isinstance(d, int) else d.value for d in value.shape]

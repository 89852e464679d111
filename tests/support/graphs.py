"""Changes to a model file that keep what it computes: oddities that real files have."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

__all__ = ["EXPORTERS", "ODDITIES", "exporter"]


def constant_nodes(model: onnx.ModelProto) -> None:
    """Every weight in a Constant node."""
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer
    ]
    rest = list(model.graph.node)
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def unsorted(model: onnx.ModelProto) -> None:
    """Nodes in random order, as some optimizers leave them."""
    nodes = list(model.graph.node)
    random.Random(0).shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def reversed_inputs(model: onnx.ModelProto) -> None:
    """Inputs in another order."""
    inputs = list(model.graph.input)[::-1]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def narrow_ids(model: onnx.ModelProto) -> None:
    """int32 ids and masks."""
    graph, casts = model.graph, []
    for value in graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT32
        wide = f"{value.name}.wide"
        casts.append(helper.make_node("Cast", [value.name], [wide], to=TensorProto.INT64))
        _reads(graph, value.name, wide)
    _first(graph, casts)


def narrow_ids_without_casts(model: onnx.ModelProto) -> None:
    """int32 token ids and types read as they are."""
    for value in model.graph.input:
        gathers = [n for n in model.graph.node if value.name in n.input]
        if all((n.op_type == "Gather" and n.input[1] == value.name) or n.op_type == "Shape" for n in gathers):
            value.type.tensor_type.elem_type = TensorProto.INT32


def boolean_mask(model: onnx.ModelProto) -> None:
    """A mask of booleans."""
    _mask(model, TensorProto.BOOL)


def float_mask(model: onnx.ModelProto) -> None:
    """A mask of 0.0 and 1.0."""
    _mask(model, TensorProto.FLOAT)


def inputs_as_initializers(model: onnx.ModelProto) -> None:
    """Initializers listed as inputs too (IR version 3)."""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def functions(model: onnx.ModelProto) -> None:
    """Every MatMul and Add in a model-local function."""
    opset = next(o for o in model.opset_import if o.domain == "")
    for op_type in ("MatMul", "Add"):
        body = [helper.make_node(op_type, ["a", "b"], ["y"])]
        model.functions.append(
            helper.make_function("local", f"My{op_type}", ["a", "b"], ["y"], body, [opset])
        )
    for node in model.graph.node:
        if node.domain == "" and node.op_type in ("MatMul", "Add"):
            node.op_type, node.domain = f"My{node.op_type}", "local"
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.ir_version = max(model.ir_version, 8)


def no_names(model: onnx.ModelProto) -> None:
    """Nodes without names, as tools that strip files leave them."""
    for node in model.graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
    del model.graph.value_info[:]


def _mask(model: onnx.ModelProto, dtype: int) -> None:
    graph = model.graph
    value = next(v for v in graph.input if "mask" in v.name)
    old = value.type.tensor_type.elem_type
    value.type.tensor_type.elem_type = dtype
    _reads(graph, value.name, "mask.cast")
    _first(graph, [helper.make_node("Cast", [value.name], ["mask.cast"], to=old)])


def outputs_without_shapes(model: onnx.ModelProto) -> None:
    """As writers leave them that infer nothing."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _reads(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


ODDITIES: dict[str, Callable[[onnx.ModelProto], None]] = {
    one.__name__.replace("_", "-"): one
    for one in (
        constant_nodes,
        unsorted,
        reversed_inputs,
        narrow_ids,
        narrow_ids_without_casts,
        boolean_mask,
        float_mask,
        inputs_as_initializers,
        functions,
        no_names,
        outputs_without_shapes,
    )
}
"""Each changes a loaded model in place."""


def exporter(change: Callable[[onnx.ModelProto], None], name: str) -> Callable[[Path], Path]:
    """From the path of a model to that of the changed one, written beside it under the `name`."""

    def export(path: Path) -> Path:
        model = onnx.load(path)
        change(model)
        target = path.with_name(f"{path.stem}.{name}.onnx")
        onnx.save(model, target)
        return target

    return export


EXPORTERS = {name: exporter(change, name) for name, change in ODDITIES.items()}
"""From the path of a float model to the path of the odd one, written beside it."""

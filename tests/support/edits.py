"""Small random graphs, and changes to model files: some that keep what they compute, some that do not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CHANGES", "disguise", "random_graph"]

UNARY = ("Relu", "Tanh", "Sigmoid", "Neg", "Abs")
BINARY = ("Add", "Mul", "Sub")
WIDTH = 4


def random_graph(seed: int, size: int = 8) -> onnx.ModelProto:
    """A graph of ``size`` nodes over float [n, 4] values, two inputs and one or two outputs, random weights."""
    chance = random.Random(seed)
    numbers = np.random.default_rng(seed)
    values, nodes, weights = ["x", "y"], [], []
    for at in range(size):
        kind = chance.choice(("unary", "binary", "weight", "bias", "softmax"))
        out = f"v{at}"
        source = chance.choice(values[-4:])
        if kind == "unary":
            node = helper.make_node(chance.choice(UNARY), [source], [out])
        elif kind == "binary":
            node = helper.make_node(chance.choice(BINARY), [source, chance.choice(values)], [out])
        elif kind == "softmax":
            node = helper.make_node("Softmax", [source], [out], axis=chance.choice((0, 1)))
        else:
            shape = (WIDTH, WIDTH) if kind == "weight" else (WIDTH,)
            weights.append(
                numpy_helper.from_array(numbers.standard_normal(shape).astype(np.float32), f"w{at}")
            )
            node = helper.make_node("MatMul" if kind == "weight" else "Add", [source, f"w{at}"], [out])
        node.name = f"node{at}"
        nodes.append(node)
        values.append(out)
    read = {name for node in nodes for name in node.input}
    ends = [name for name in values[2:] if name not in read]
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", "y")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ends],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def disguise(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The same computation: every node, inner value and weight renamed, nodes and weights shuffled."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    chance = random.Random(seed)
    graph = made.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    inner = [name for node in graph.node for name in node.output] + [t.name for t in graph.initializer]
    new = [f"z{at}" for at in range(len(inner))]
    chance.shuffle(new)
    names = {old: to for old, to in zip(inner, new, strict=True) if old and old not in kept}
    for at, node in enumerate(graph.node):
        node.name = f"other{at}"
        for field in (node.input, node.output):
            renamed = [names.get(name, name) for name in field]
            del field[:]
            field.extend(renamed)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del graph.value_info[:]
    for field in (graph.node, graph.initializer):
        shuffled = list(field)
        chance.shuffle(shuffled)
        del field[:]
        field.extend(shuffled)
    return made


def _renamed_input(model: onnx.ModelProto, chance: random.Random) -> bool:
    value = chance.choice(list(model.graph.input))
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == value.name:
                node.input[at] = f"{value.name}.new"
    for output in model.graph.output:
        if output.name == value.name:
            return False
    value.name = f"{value.name}.new"
    return True


def _renamed_output(model: onnx.ModelProto, chance: random.Random) -> bool:
    value = chance.choice(list(model.graph.output))
    for node in model.graph.node:
        for field in (node.input, node.output):
            for at, name in enumerate(field):
                if name == value.name:
                    field[at] = f"{value.name}.new"
    value.name = f"{value.name}.new"
    return True


def _changed_weight(model: onnx.ModelProto, chance: random.Random) -> bool:
    if not model.graph.initializer:
        return False
    tensor = chance.choice(list(model.graph.initializer))
    array = numpy_helper.to_array(tensor).copy()
    array.flat[chance.randrange(array.size)] += np.float32(1e-3)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True


def _replaced_operator(model: onnx.ModelProto, chance: random.Random) -> bool:
    known = [node for node in model.graph.node if node.op_type in UNARY]
    if not known:
        return False
    node = chance.choice(known)
    node.op_type = UNARY[(UNARY.index(node.op_type) + 1) % len(UNARY)]
    return True


def _changed_attribute(model: onnx.ModelProto, chance: random.Random) -> bool:
    known = [node for node in model.graph.node if node.op_type == "Softmax"]
    if not known:
        return False
    attribute = chance.choice(known).attribute[0]
    attribute.i = 1 - attribute.i
    return True


def _inserted_node(model: onnx.ModelProto, chance: random.Random) -> bool:
    at = chance.randrange(len(model.graph.node))
    node = model.graph.node[at]
    taken = {node.name for node in model.graph.node}
    name = next(free for n in itertools.count() if (free := f"inserted{n}") not in taken)
    made = helper.make_node("Erf", [node.input[0]], [name], name=name)
    node.input[0] = name
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*rest[:at], made, *rest[at:]])
    return True


def _removed_node(model: onnx.ModelProto, chance: random.Random) -> bool:
    outputs = {value.name for value in model.graph.output}
    known = [n for n in model.graph.node if n.op_type in UNARY and n.output[0] not in outputs]
    if not known:
        return False
    gone = chance.choice(known)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == gone.output[0]:
                node.input[at] = gone.input[0]
    model.graph.node.remove(gone)
    return True


def _swapped_inputs(model: onnx.ModelProto, chance: random.Random) -> bool:
    known = [n for n in model.graph.node if n.op_type == "Sub" and n.input[0] != n.input[1]]
    if not known:
        return False
    node = chance.choice(known)
    first, second = node.input
    node.input[0], node.input[1] = second, first
    return True


CHANGES: dict[str, Callable[[onnx.ModelProto, random.Random], bool]] = {
    one.__name__.strip("_").replace("_", " "): one
    for one in (
        _renamed_input,
        _renamed_output,
        _changed_weight,
        _replaced_operator,
        _changed_attribute,
        _inserted_node,
        _removed_node,
        _swapped_inputs,
    )
}
"""Changes of what a model computes or how it is called, in place; False where the model has nothing to change."""

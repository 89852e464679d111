"""What tools/fuzz.py does to files and inputs: every mutation follows from its seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

__all__ = ["mutate_feeds", "mutate_files"]

NUMBERS = (
    -(2**63),
    -(2**31),
    -129,
    -2,
    -1,
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    17,
    64,
    255,
    65537,
    2**31,
    2**40,
    2**62,
    2**63 - 1,
)
LOCATIONS = ("", ".", "..", "/etc/passwd", "../x", "model.onnx", "nothing", "a\0b", "x" * 300)
Feeds = dict[str, np.ndarray[Any, np.dtype[Any]]]


def mutate_files(seed: int, model: Path, target: Path) -> Path:
    """Write a spoiled copy of ``model`` (and of its data, if any) into ``target``; return the copy."""
    choose = random.Random(seed)
    data = model.with_name(f"{model.name}.data")
    content, tensors = model.read_bytes(), data.read_bytes() if data.exists() else b""
    kind = choose.randrange(4)
    if kind == 0:
        content = _bytes(choose, content)
    elif kind == 1 and tensors:
        tensors = _bytes(choose, tensors)
    else:
        proto = onnx.load_model_from_string(content)
        for _ in range(choose.choice((1, 1, 1, 2, 4))):
            choose.choice(EDITS)(choose, proto)
        content = proto.SerializeToString()
    (target / model.name).write_bytes(content)
    if data.exists():
        (target / data.name).write_bytes(tensors)
    return target / model.name


def mutate_feeds(seed: int, feeds: Feeds) -> Feeds:
    """Inputs with something wrong or odd about them."""
    choose = random.Random(seed)
    made = np.random.default_rng(seed)
    feeds = {name: value.copy() for name, value in feeds.items()}
    for _ in range(choose.choice((1, 1, 2, 3))):
        if not feeds:
            break
        name = choose.choice(sorted(feeds))
        value = feeds[name]
        kind = choose.randrange(9)
        if kind == 0:
            feeds[name] = value.astype(
                choose.choice((np.float32, np.int32, np.uint8, np.bool_, np.float64, np.int8))
            )
        elif kind == 1:
            feeds[name] = value.reshape(choose.choice(((-1,), (1, *value.shape), (*value.shape, 1))))
        elif kind == 2:
            sizes = [choose.choice((0, 1, 2, 5, 17, 300)) for _ in value.shape]
            feeds[name] = np.resize(value, sizes) if value.size else value
        elif kind == 3:
            shape = [choose.choice((0, 1, 2, 9, 33)) for _ in range(2)]
            feeds = {n: np.resize(v, shape).astype(v.dtype) if v.size else v for n, v in feeds.items()}
        elif kind == 4 and value.size and value.dtype == np.int64:
            at = made.integers(value.size, size=1 + value.size // 4)
            value.reshape(-1)[at] = made.choice(np.array(NUMBERS, np.int64), at.size)
        elif kind == 5 and value.size and value.dtype == np.int64:
            value[...] = choose.choice(NUMBERS)
        elif kind == 6:
            del feeds[name]
        elif kind == 7:
            feeds[f"{name}x"] = value
        elif value.size:
            feeds[name] = np.frombuffer(made.bytes(value.nbytes), value.dtype).reshape(value.shape).copy()
    return feeds


def _bytes(choose: random.Random, content: bytes) -> bytes:
    spoiled = bytearray(content)
    kind = choose.randrange(5)
    if not spoiled:
        return b"x"
    if kind == 0:
        return bytes(spoiled[: choose.randrange(len(spoiled))])
    if kind == 1:
        at, size = choose.randrange(len(spoiled)), choose.randrange(1, 200)
        spoiled[at:at] = spoiled[at : at + size]
    elif kind == 2:
        at = choose.randrange(len(spoiled))
        del spoiled[at : at + choose.randrange(1, 200)]
    else:
        for _ in range(choose.choice((1, 1, 3, 20))):
            spoiled[choose.randrange(len(spoiled))] = choose.choice(
                (0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256))
            )
    return bytes(spoiled)


def _graph(choose: random.Random, model: onnx.ModelProto) -> Any:
    """The main graph, mostly, or a function."""
    return choose.choice(model.functions) if model.functions and choose.random() < 0.25 else model.graph


def _node(choose: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    nodes = _graph(choose, model).node or model.graph.node
    return choose.choice(nodes) if nodes else model.graph.node.add()


def _tensor(choose: random.Random, model: onnx.ModelProto) -> onnx.TensorProto:
    tensors = model.graph.initializer
    return choose.choice(tensors) if tensors else tensors.add()


def _dims(choose: random.Random, model: onnx.ModelProto) -> None:
    tensor = _tensor(choose, model)
    kind = choose.randrange(4)
    if kind == 0 or not tensor.dims:
        tensor.dims.append(choose.choice(NUMBERS))
    elif kind == 1:
        tensor.dims[choose.randrange(len(tensor.dims))] = choose.choice(NUMBERS)
    elif kind == 2:
        del tensor.dims[choose.randrange(len(tensor.dims))]
    else:  # as many bytes, laid out in another way
        tensor.dims[:] = choose.sample(list(tensor.dims), len(tensor.dims))


def _consistent(choose: random.Random, model: onnx.ModelProto) -> None:
    """Another size, with bytes to match: what only the kernel or the pass can notice."""
    tensor = _tensor(choose, model)
    if not tensor.dims or tensor.data_location == TensorProto.EXTERNAL or not tensor.raw_data:
        return _dims(choose, model)
    axis = choose.randrange(len(tensor.dims))
    before = tensor.dims[axis]
    after = max(0, before + choose.choice((-before, -1, 1, before)))
    if before:
        size = len(tensor.raw_data) * after // before
        tensor.raw_data = (tensor.raw_data * 3)[:size]
        tensor.dims[axis] = after
    return None


def _contents(choose: random.Random, model: onnx.ModelProto) -> None:
    tensor = _tensor(choose, model)
    if tensor.raw_data:
        value = choose.choice((b"\0", b"\x80", b"\x81", b"\xff", b"\x7f", choose.randbytes(7)))
        tensor.raw_data = (value * len(tensor.raw_data))[: len(tensor.raw_data)]


def _type(choose: random.Random, model: onnx.ModelProto) -> None:
    _tensor(choose, model).data_type = choose.choice((0, 1, 2, 3, 6, 7, 8, 9, 10, 14, 16, 17, 22, 99))


def _place(choose: random.Random, model: onnx.ModelProto) -> None:
    tensors = [t for t in model.graph.initializer if t.external_data]
    if not tensors:
        return _dims(choose, model)
    entry = choose.choice(choose.choice(tensors).external_data)
    entry.value = (
        choose.choice(LOCATIONS) if entry.key == "location" else str(choose.choice((*NUMBERS, "many", "")))
    )
    return None


def _attribute(choose: random.Random, model: onnx.ModelProto) -> None:
    node = _node(choose, model)
    if not node.attribute:
        node.attribute.append(helper.make_attribute(choose.choice(("bits", "axis", "to", "perm")), 3))
        return
    attribute = choose.choice(node.attribute)
    kind = choose.randrange(4)
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        attribute.name = choose.choice(("axis", "bits", "", "block"))
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = choose.choice(NUMBERS)
    elif attribute.type == onnx.AttributeProto.INTS and attribute.ints:
        attribute.ints[choose.randrange(len(attribute.ints))] = choose.choice(NUMBERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = choose.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38))
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = choose.choice((b"", b"other", b"\xff\xfe", b"x" * 1000))
    else:
        attribute.type = choose.randrange(12)


def _edge(choose: random.Random, model: onnx.ModelProto) -> None:
    node = _node(choose, model)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)] or ["x"]
    ends = choose.choice((node.input, node.input, node.input, node.output))
    kind = choose.randrange(5)
    if kind == 0 or not ends:
        ends.append(choose.choice(names))
    elif kind == 1:
        del ends[choose.randrange(len(ends))]
    elif kind == 2:
        ends[choose.randrange(len(ends))] = choose.choice((*names[:5], "", "nobody makes this"))
    elif kind == 3:
        ends[choose.randrange(len(ends))] = choose.choice(names)
    else:
        ends[:] = choose.sample(list(ends), len(ends))


def _operator(choose: random.Random, model: onnx.ModelProto) -> None:
    node = _node(choose, model)
    if choose.random() < 0.2:
        node.domain = choose.choice(("", "ai.bqc", "com.microsoft", "nobody"))
    else:
        kinds = sorted(
            {other.op_type for other in model.graph.node} | {"Reshape", "Expand", "Loop", "If", "Tile"}
        )
        node.op_type = choose.choice(kinds)


def _nodes(choose: random.Random, model: onnx.ModelProto) -> None:
    nodes = _graph(choose, model).node
    if not nodes:
        return
    at = choose.randrange(len(nodes))
    kind = choose.randrange(3)
    if kind == 0:
        del nodes[at]
    elif kind == 1:
        nodes.add().CopyFrom(nodes[at])
    else:
        nodes[at].name = choose.choice(("", nodes[0].name, "x" * 3000, "new\nline"))


def _signature(choose: random.Random, model: onnx.ModelProto) -> None:
    values = choose.choice((model.graph.input, model.graph.output, model.graph.initializer))
    if not values:
        return
    value = choose.choice(values)
    kind = choose.randrange(4)
    if kind == 0:
        values.remove(value)
    elif kind == 1:
        value.name = choose.choice(("", "other", values[0].name))
    elif kind == 2:
        values.add().CopyFrom(value)
    elif isinstance(value, onnx.ValueInfoProto):
        value.type.tensor_type.elem_type = choose.choice((0, 1, 6, 7, 9, 99))
        if value.type.tensor_type.shape.dim:
            choose.choice(value.type.tensor_type.shape.dim).dim_value = choose.choice(NUMBERS)


def _header(choose: random.Random, model: onnx.ModelProto) -> None:
    kind = choose.randrange(4)
    if kind == 0 and model.opset_import:
        choose.choice(model.opset_import).version = choose.choice((*NUMBERS, 7, 11, 13, 18, 22))
    elif kind == 1:
        model.ir_version = choose.choice((*NUMBERS, 3, 4, 10, 13))
    elif kind == 2 and model.metadata_props:
        choose.choice(model.metadata_props).value = choose.choice(("", "{", "[]", "99", "x" * 1000))
    elif model.functions:
        model.functions.add().CopyFrom(choose.choice(model.functions))


Edit = Callable[[random.Random, onnx.ModelProto], None]
EDITS: tuple[Edit, ...] = (
    _dims,
    _consistent,
    _contents,
    _type,
    _place,
    _attribute,
    _attribute,
    _attribute,
    _edge,
    _edge,
    _operator,
    _nodes,
    _signature,
    _header,
)

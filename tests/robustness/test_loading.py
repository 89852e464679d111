"""Model files made to do harm: refused with one line, before anything is allocated, opened or repeated."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import bqc
from bqc.cli import main
from bqc.errors import BqcError
from bqc.ir import encoder, import_model, load
from bqc.ir.synthetic import canonical_bert

OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "model.onnx"
    path.parent.mkdir()
    ir.save(canonical_bert(), path, external_data="model.onnx.data", size_threshold_bytes=0)
    return path


def refused(path: Path, within: float = 5) -> str:
    started = time.monotonic()
    with pytest.raises(BqcError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    assert time.monotonic() - started < within
    return message


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def chain(
    *nodes: onnx.NodeProto, functions: Any = (), initializers: Any = (), inputs: Any = ("x",)
) -> onnx.ModelProto:
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])

    graph = helper.make_graph(
        list(nodes), "g", [info(name) for name in inputs], [info("y")], list(initializers)
    )
    return helper.make_model(graph, functions=list(functions), opset_imports=OPSETS, ir_version=10)


def node(op: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        op, inputs.split(), outputs.split(), name=f"the {op}", domain=domain, **attributes
    )


def function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("f", name, ["x"], ["y"], list(nodes), OPSETS)


def calls(name: str, times: int) -> list[onnx.NodeProto]:
    names = ["x", *(f"t{i}" for i in range(times - 1)), "y"]
    return [node(name, names[i], names[i + 1], "f") for i in range(times)]


def test_a_later_onnx(tmp_path: Path) -> None:
    later = chain(node("Neg", "x", "y"))
    later.ir_version = onnx.IR_VERSION + 1
    assert f"IR version {onnx.IR_VERSION + 1}" in refused(saved(tmp_path / "m.onnx", later))


def test_an_encoder_in_a_branch(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [node("Neg", "x", "z")], "inner", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n"])]
    )
    yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, [])
    branch = chain(node("If", "yes", "y", then_branch=inner, else_branch=inner))
    branch.graph.input.append(yes)
    path = saved(tmp_path / "m.onnx", branch)
    with pytest.raises(BqcError, match=r"no encoder found.*; what is inside If is not looked at"):
        bqc.compile(path)


def test_a_function_that_calls_itself(tmp_path: Path) -> None:
    one = chain(node("A", "x", "y", "f"), functions=[function("A", *calls("A", 1))])
    assert "function 'A' calls itself" in refused(saved(tmp_path / "m.onnx", one))
    ring = [function(f"A{i}", *calls(f"A{(i + 1) % 3000}", 1)) for i in range(3000)]
    assert "calls itself" in refused(saved(tmp_path / "m.onnx", chain(*calls("A7", 1), functions=ring)))


def test_functions_that_multiply(tmp_path: Path) -> None:
    bomb = [function(f"A{i}", *calls(f"A{i + 1}", 10)) for i in range(1000)]
    bomb.append(function("A1000", node("Identity", "x", "y")))
    text = refused(saved(tmp_path / "m.onnx", chain(*calls("A0", 1), functions=bomb)))
    assert "its functions written out are more than 1000000 nodes" in text


def test_long_chains_of_functions_are_fine(tmp_path: Path) -> None:
    links = [function(f"A{i}", *calls(f"A{i + 1}", 1)) for i in range(2000)]
    links.append(function("A2000", node("Identity", "x", "y")))
    load(saved(tmp_path / "m.onnx", chain(*calls("A0", 1), functions=links)))


def test_a_function_twice(tmp_path: Path) -> None:
    twice = [function("A", node("Identity", "x", "y"))] * 2
    assert "'A' is there twice" in refused(saved(tmp_path / "m.onnx", chain(*calls("A", 1), functions=twice)))


def test_a_cycle(tmp_path: Path) -> None:
    proto = chain(node("Add", "x b", "a"), node("Tanh", "a", "b"), node("Identity", "a", "y"))
    assert "has a cycle through node 'the " in refused(saved(tmp_path / "m.onnx", proto))


def test_a_cycle_through_a_subgraph(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [node("Identity", "y", "z")], "b", [], [helper.make_empty_tensor_value_info("z")]
    )
    proto = chain(node("If", "c", "y", then_branch=inner, else_branch=inner), inputs=("c",))
    assert "has a cycle through node 'the If' (If)" in refused(saved(tmp_path / "m.onnx", proto))


def test_any_order_of_nodes_is_fine(tmp_path: Path) -> None:
    load(saved(tmp_path / "m.onnx", chain(node("Tanh", "a", "y"), node("Identity", "x", "a"))))


def test_names_twice(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = chain(node("Tanh", "x", "y"), node("Identity", "x", "y"))
    assert "makes the value 'y' twice" in refused(saved(path, proto))
    assert "2 inputs called 'x'" in refused(saved(path, chain(node("Tanh", "x", "y"), inputs=("x", "x"))))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    proto = chain(node("Add", "x w", "y"), initializers=[weight] * 5)
    assert "5 initializers called 'w'" in refused(saved(path, proto))
    proto = chain(node("Tanh", "x", "w"), node("Identity", "w", "y"), initializers=[weight])
    assert "makes the value 'w' twice" in refused(saved(path, proto))


@pytest.mark.parametrize("depth", [10, 25, 60, 5000])
def test_deep_nesting(tmp_path: Path, depth: int) -> None:
    """Protobuf stops at a hundred levels, three for a graph: so far it works, further it is refused."""
    leaf = helper.make_graph([node("Tanh", "x", "z")], "b", [], [helper.make_empty_tensor_value_info("z")])
    content = leaf.SerializeToString()
    for _ in range(depth):  # by hand: Python's protobuf would not nest so deep either
        attribute = field(1, b"then_branch") + field(6, content) + b"\xa0\x01\x05"
        content = field(1, field(1, b"c") + field(2, b"z") + field(4, b"If") + field(5, attribute))
    model = chain(node("Identity", "x", "y")).SerializeToString() + field(7, content)
    path = tmp_path / "m.onnx"
    path.write_bytes(model)
    if depth < 30:
        load(path)
    else:
        assert "not an ONNX model, or truncated" in refused(path)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of the protobuf wire format."""
    size, length = len(content), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        ([-1], r"has the shape [-1]"),
        ([1 << 62, 1 << 62, 1 << 62], "shape needs"),
        ([2], "has 1 values but its shape needs 2"),
        ([1 << 40], "shape needs"),
        ([0], "has 1 values but its shape needs 0"),
    ],
)
def test_values_that_do_not_fill_their_shape(tmp_path: Path, dims: list[int], text: str) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    weight.dims[:] = dims
    proto = chain(node("Add", "x w", "y"), initializers=[weight])
    assert text in refused(saved(tmp_path / "m.onnx", proto))
    weight.name = ""
    proto = chain(node("Constant", "", "w", value=weight), node("Add", "x w", "y"))
    assert text in refused(saved(tmp_path / "m.onnx", proto))


def test_types_that_do_not_exist(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    weight.data_type = 77
    refused(saved(tmp_path / "m.onnx", chain(node("Add", "x w", "y"), initializers=[weight])))


def test_four_bit_values_are_packed(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])
    load(saved(tmp_path / "m.onnx", chain(node("Identity", "x", "y"), initializers=[weight])))


def edit(path: Path, change: Callable[[onnx.TensorProto], None], every: bool = False) -> Path:
    proto = onnx.load(path, load_external_data=False)
    tensors = [t for t in proto.graph.initializer if t.external_data]
    for tensor in tensors if every else tensors[:1]:
        change(tensor)
    return saved(path, proto)


def relocate(location: str) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location

    return change


@pytest.mark.parametrize(
    "location", ["a\0b", "x" * 5000, "", ".", "loop", "/dev/zero", "pipe", "..", "sub/../../model.onnx"]
)
def test_places_that_are_none(external: Path, location: str) -> None:
    (external.parent / "loop").symlink_to("loop")
    os.mkfifo(external.parent / "pipe")
    refused(edit(external, relocate(location)))


@pytest.mark.parametrize(
    ("location", "says"), [("pipe", "'pipe' is a folder or a device"), (".", "'.' is a folder or a device")]
)
def test_places_that_are_no_files(external: Path, location: str, says: str) -> None:
    os.mkfifo(external.parent / "pipe")
    assert says in refused(edit(external, relocate(location)))


def test_a_place_that_is_no_number(external: Path) -> None:
    proto = onnx.load(external, load_external_data=False)
    tensor = next(t for t in proto.graph.initializer if t.external_data)
    next(entry for entry in tensor.external_data if entry.key == "offset").value = "abc"
    assert "has the offset 'abc' in its data file" in refused(saved(external, proto))


def test_text_is_no_input(tmp_path: Path) -> None:
    proto = ir.to_proto(canonical_bert())
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    onnx.save(proto, tmp_path / "text.onnx")
    with pytest.raises(BqcError, match="input 'input_ids' holds text"):
        import_model(tmp_path / "text.onnx")


def test_a_small_file_cannot_claim_much(external: Path) -> None:
    proto = onnx.load(external, load_external_data=False)
    largest = max((t for t in proto.graph.initializer if t.external_data), key=lambda t: math.prod(t.dims))
    for i in range(5000):
        proto.graph.initializer.add().CopyFrom(largest)
        proto.graph.initializer[-1].name = f"copy {i}"
    assert "refusing" in refused(saved(external, proto))


@pytest.mark.parametrize(
    "arguments", [["compile"], ["compile", "--single-file"], ["opt", "-p", "import-canonicalize"]]
)
def test_no_output_takes_the_place_of_the_weights(
    arguments: list[str], external: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A renamed model still has its weights in the file that the new one's would be called."""
    renamed = external.rename(external.with_name("renamed.onnx"))
    data = external.with_name("model.onnx.data").read_bytes()
    verb, *options = arguments
    assert main([verb, str(renamed), *options, "-o", str(external)]) == 2
    assert "would overwrite model.onnx.data, which has the input's weights" in capsys.readouterr().err
    assert external.with_name("model.onnx.data").read_bytes() == data
    assert not external.exists()


def test_truncated_weights_of_a_compiled_model(
    external: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of ours, also from verbs that open the file with ONNX Runtime."""
    path = bqc.compile(external, output=tmp_path / "m.bqc.onnx").paths[0]
    data = path.with_name("m.bqc.onnx.data")
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\ngood,1\nbad,0\n")
    verbs = {
        "verify": ["--against", str(external)],
        "eval": ["--data", str(rows), "--text-column", "text", "--label-column", "label"],
        "bench": ["--shape", "1x4", "--rounds", "1", "--seconds", "0.01"],
        "inspect": [],
    }
    for left in (data.stat().st_size - 1, 0):
        os.truncate(data, left)
        for verb, options in verbs.items():
            assert main([verb, str(path), *options]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert re.fullmatch(
                rf"bqc: error: {path}: weight '\S+' needs bytes \d+ to \d+ of m\.bqc\.onnx\.data, which has only "
                rf"{left}; the data file is truncated or belongs to another model\n",
                err,
            )


def hub(external: Path, tmp_path: Path) -> Path:
    """The files as the Hugging Face hub keeps them: links in a snapshot, contents in blobs."""
    cache = tmp_path / "cache" / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123" / "onnx"
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(external.parent.iterdir())):
        shutil.move(file, cache / "blobs" / f"{i:040x}")
        (snapshot / file.name).symlink_to(f"../../../blobs/{i:040x}")
    return snapshot / external.name


def test_the_cache_of_the_hub(external: Path, tmp_path: Path) -> None:
    path = hub(external, tmp_path)
    result = bqc.compile(path, output=tmp_path / "out.onnx")
    assert bqc.session(result.paths[0], strict=True)


def test_a_link_out_of_the_cache(external: Path, tmp_path: Path) -> None:
    path = hub(external, tmp_path)
    secret = tmp_path / "secret"
    data = path.parent / "model.onnx.data"
    shutil.copyfile(data.resolve(), secret)
    data.unlink()
    data.symlink_to(secret)
    assert "outside the model's folder" in refused(path)


def test_hard_links(external: Path, tmp_path: Path) -> None:
    os.link(external.parent / "model.onnx.data", tmp_path / "other")
    import_model(external)


def test_every_weight_outside_the_file(external: Path, tmp_path: Path) -> None:
    """Scalars and shapes too: exporters put all of them there."""
    result = bqc.compile(external, output=tmp_path / "out.onnx")
    session = bqc.session(result.paths[0], strict=True)
    ids = np.ones((1, 3), np.int64)
    session.run(None, {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids})


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("ConstantOfShape", [[1 << 31]], {}),
        ("ConstantOfShape", [[1 << 20, 1 << 20, 1 << 20]], {}),
        ("Expand", [[1], [1 << 20, 1 << 20]], {}),
        ("Tile", [[1, 2, 3], [1 << 30]], {}),
        ("Range", [0, 1 << 31, 1], {}),
        ("OneHot", [[1, 2], 1 << 40, [0, 1]], {}),
        ("Pad", [[1], [0, 1 << 31]], {}),
    ],
)
def test_much_out_of_little(tmp_path: Path, op: str, inputs: Any, attributes: Any) -> None:
    proto = ir.to_proto(canonical_bert(layers=1))
    names = [f"c{i}" for i in range(len(inputs))]
    for name, value in zip(names, inputs, strict=True):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    proto.graph.node.insert(0, helper.make_node(op, names, ["much"], name="bomb", **attributes))
    proto.graph.node.insert(1, helper.make_node("Size", ["much"], ["size"]))
    proto.graph.node.insert(2, helper.make_node("Add", ["input_ids", "size"], ["ids"]))
    path = saved(tmp_path / "m.onnx", proto)
    with pytest.raises(BqcError, match=r"'bomb'.*elements out of constants"):
        import_model(path)


def test_nodes_that_make_nothing(tmp_path: Path) -> None:
    empty = helper.make_node("Relu", ["x"], [], name="idle")
    text = refused(saved(tmp_path / "a.onnx", chain(node("Relu", "x", "y"), empty)))
    assert "node 'idle' (Relu) of the graph makes no value" in text


def test_inputs_larger_than_any(tmp_path: Path) -> None:
    proto = chain(node("Relu", "x", "y"))
    size = proto.graph.input[0].type.tensor_type.shape.dim[0]
    size.dim_value = 1 << 26
    saved(tmp_path / "a.onnx", proto)
    load(tmp_path / "a.onnx")
    size.dim_value += 1
    text = refused(saved(tmp_path / "b.onnx", proto))
    assert "input 'x' is declared [67108865]" in text


def test_attributes_that_are_no_text(tmp_path: Path) -> None:
    damaged = node("Gelu", "x", "y", approximate=b"\xff\xfe")
    text = refused(saved(tmp_path / "a.onnx", chain(damaged)))
    assert "attribute 'approximate'" in text
    assert "is no text" in text


@pytest.mark.parametrize("place", ["model", "node", "weight", "value"])
def test_metadata_that_is_no_text(tmp_path: Path, place: str) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    proto = chain(node("Add", "x w", "y"), initializers=[weight])
    owner: Any = {
        "model": proto,
        "node": proto.graph.node[0],
        "weight": proto.graph.initializer[0],
        "value": proto.graph.output[0],
    }[place]
    owner.metadata_props.add(key="k", value="text to spoil")
    path = tmp_path / "a.onnx"
    path.write_bytes(proto.SerializeToString().replace(b"text to spoil", b"\xff\xfe to spoil.."[:13]))
    assert "metadata 'k' that is no text" in refused(path)


def test_an_anatomy_that_is_none() -> None:
    model = canonical_bert()
    model.metadata_props["bqc.anatomy"] = "17"
    with pytest.raises(BqcError, match=r"bqc\.anatomy metadata is damaged"):
        encoder(model)


def test_operators_that_bqc_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    model = canonical_bert()
    next(n for n in model.graph if n.op_type == "Softmax").domain = "ai.bqc"
    ir.save(model, path)
    with pytest.raises(BqcError, match=r"ai\.bqc has no operator Softmax"):
        bqc.compile(path, output=tmp_path / "out.onnx", block=16)
    assert not (tmp_path / "out.onnx").exists()

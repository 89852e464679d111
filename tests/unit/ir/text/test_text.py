"""The textual form: what it shows, what it leaves out, and what its errors say."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir.anatomy import label
from bqc.ir.synthetic import canonical_bert
from bqc.ir.text import ElidedTensor, attach_weights, elided_tensors, from_text, split, to_text

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def graph(body: str, constants: str = "") -> str:
    listed = f"<{constants}> " if constants else ""
    return f"{HEAD}g (float[N,4] x) => (float[N,4] y) {listed}{{\n{body}\n}}\n"


def constant(text: str) -> ir.TensorProtocol:
    found = from_text(graph("y = Add (x, c)", text)).graph.initializers["c"].const_value
    assert found is not None
    return found


def test_labels_stand_beside_nodes() -> None:
    text = to_text(canonical_bert(layers=1))
    line = next(line for line in text.splitlines() if "Gelu" in line)
    assert line.strip() == (
        '[node_Gelu_39] float[batch,sequence,64] val_39 = Gelu <approximate = "none"> (val_38) @0:ffn.gelu'
    )
    model = from_text(text)
    node = next(node for node in model.graph if node.op_type == "Gelu")
    assert node.metadata_props == {"bqc.layer": "0", "bqc.role": "ffn.gelu"}


def test_a_label_that_is_no_word_is_plain_metadata() -> None:
    model = from_text(graph("y = Relu (x)"))
    label(model.graph[0], "layer 0", "x")
    text = to_text(model)
    assert '@{bqc.layer: "layer 0", bqc.role: "x"}' in text
    assert to_text(from_text(text)) == text


def test_metadata_is_sorted() -> None:
    model = from_text(graph('y = Relu (x) @{b: "1", a: "2"}'))
    model.metadata_props.update({"z": "1", "a": "2"})
    text = to_text(model)
    assert 'metadata_props: [\n      "a": "2",\n      "z": "1"\n   ]' in text
    assert '@{a: "2", b: "1"}' in text


def test_metadata_of_several_lines_has_a_string_for_each() -> None:
    model = from_text(graph("y = Relu (x)"))
    model.metadata_props["plan"] = "first:\n  second\nlast"
    text = to_text(model)
    assert '"plan":\n         "first:\\n"\n         "  second\\n"\n         "last"\n' in text
    assert from_text(text).metadata_props["plan"] == "first:\n  second\nlast"


def test_large_tensors_are_known_by_their_digest() -> None:
    model = canonical_bert(layers=1)
    short = from_text(to_text(model))
    weight = short.graph.initializers["layer.0.ffn.output.weight"].const_value
    assert isinstance(weight, ElidedTensor)
    assert (weight.dtype, list(weight.shape), weight.nbytes) == (ir.DataType.FLOAT, [64, 32], 64 * 32 * 4)
    with pytest.raises(
        BqcError, match=r"weight 'layer.0.ffn.output.weight' was left out of the text \(sha256:"
    ):
        weight.numpy()
    attach_weights(short, model)
    assert elided_tensors(short) == []
    assert to_text(short, tensors="inline") == to_text(model, tensors="inline")


def test_other_weights_are_not_attached() -> None:
    short = from_text(to_text(canonical_bert(layers=1)))
    with pytest.raises(BqcError, match="is not in the model given for its weights"):
        attach_weights(short, canonical_bert(layers=1, seed=1))


def test_weights_in_attributes_and_subgraphs_are_attached() -> None:
    data, more = ", ".join(map(str, range(20))), ", ".join(map(str, range(21)))
    whole = from_text(
        graph(
            f"c = Constant <value: tensor = float[20] {{{data}}}> ()\n"
            f"y = If (x) <then_branch: graph = t () => (z) <float[21] w = {{{more}}}> {{ z = Add (c, w) }}>"
        )
    )
    short = from_text(to_text(whole))
    assert len(elided_tensors(short)) == 2
    attach_weights(short, whole)
    assert to_text(short, tensors="inline") == to_text(whole, tensors="inline")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("float[3] c = {1, -2.5e-3, inf}", np.array([1, -2.5e-3, np.inf], np.float32)),
        ("float16[2] c = {0.1, 65504}", np.array([0.1, 65504], np.float16)),
        ("int64[2] c = {9223372036854775807, -9223372036854775808}", np.array([2**63 - 1, -(2**63)])),
        ("bool[2] c = {0, 1}", np.array([False, True])),
        ("uint8[2,2] c = {7, ...}", np.full((2, 2), 7, np.uint8)),
        ("float[0,4] c = {}", np.zeros((0, 4), np.float32)),
        ("int32 c = {5}", np.array(5, np.int32)),
        ('float[1] c = raw "AADAfw=="', np.array([np.nan], np.float32)),
    ],
)
def test_data(text: str, values: np.ndarray) -> None:
    np.testing.assert_array_equal(constant(text).numpy(), values)


def test_nibbles_are_packed() -> None:
    assert constant("int4[3] c = {-8, 7, -1}").tobytes() == b"\x78\x0f"
    assert constant("uint4[3] c = {3, ...}").tobytes() == b"\x33\x03"


def test_equal_elements_are_written_once() -> None:
    model = from_text(graph("y = Add (x, c)", "float[1000] c = {0.5, ...}"))
    assert "float[1000] c = {0.5, ...}" in to_text(model)


def test_nan_payloads_survive() -> None:
    data = np.array([0x7FC00001, 0xFF800001], np.uint32).view(np.float32)
    model = from_text(graph("y = Add (x, c)", "float[2] c = {0, 0}"))
    model.graph.initializers["c"].const_value = ir.Tensor(data, name="c")
    read = from_text(to_text(model)).graph.initializers["c"].const_value
    assert read is not None
    assert read.tobytes() == data.tobytes()


def test_functions() -> None:
    text = (
        '<\n   ir_version: 10,\n   opset_import: ["" : 21, "local" : 1]\n>\n'
        "g (float[N] x) => (float[N] y) {\n   y = local.Scale <factor = 2.0> (x)\n}\n\n"
        '<\n   domain: "local",\n   opset_import: ["" : 21]\n>\n'
        "Scale <bias = 0.0, factor> (x) => (y) {\n"
        "   float c = Constant <value_float: float = @factor> ()\n   y = Mul (x, c)\n}\n"
    )
    assert to_text(from_text(text)) == text


def test_text_of_onnx_itself_is_read() -> None:
    ours = from_text(
        graph(
            "[n] a = MatMul (x, w)\n b = If (x) <then_branch: graph = t () => (z) { z = Relu (a) }>\n"
            'y = ai.bqc.Foo:over <k = [1, 2], f = 1.5, s = "q", t: tensor = int64[2] {1, 2}> (b, "", a)',
            "float[4,4] w = {1, ...}",
        )
    )
    read = from_text(onnx.printer.to_text(ir.to_proto(ours)))
    assert to_text(read).replace("N, 4", "N,4") == to_text(ours)


def test_split_keeps_lines() -> None:
    pieces = split(HEAD + "a\n// -----\nb\n// -----\n\nc")
    assert [piece.split("\n").index(name) + 1 for piece, name in zip(pieces, "abc", strict=True)] == [2, 4, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: expected '<' that opens the header of the model, found the end of the text"),
        ("<ir_version: x>", "1:14: expected a version, found 'x'"),
        ("<colour: 1>", "1:2: no entry 'colour'; there are ir_version"),
        (HEAD + "g (float[N x) => () {}", "2:12: expected ',' or ']' after a dimension, found 'x'"),
        (HEAD + "g (floaty x) => () {}", "2:11: expected ',' or ')' after one of the inputs, found 'x'"),
        (graph("y = Relu x"), "3:10: expected '(' or '<' after an operator, found 'x'"),
        (graph("y = Relu (x"), "4:1: expected ',' or ')' after an input, found '}'"),
        (graph("y Relu (x)"), "3:3: expected ',' or '=' after an output, found 'Relu'"),
        (graph("y = Relu <a = > (x)"), "3:15: expected the value of an attribute, found '>'"),
        (graph("y = Relu <a: colour = 1> (x)"), "3:14: no attribute type 'colour'; there are float, int"),
        (graph("y = Relu <a = 1, a = 2> (x)"), "3:18: the attribute 'a' is there twice"),
        (graph("y = Relu <a = []> (x)"), "3:15: an empty list needs its type"),
        (graph("y = Relu <a: ints = [1.5]> (x)"), "3:22: expected a whole number, found '1.5'"),
        (graph("y = Relu <a: int = [1]> (x)"), "3:20: expected a value of type int, found a list"),
        (graph("y = Relu <a: ints = 1> (x)"), "3:21: expected '[' that opens a list of type ints, found '1'"),
        (graph("y = Relu <a = 99999999999999999999> (x)"), "3:15: 99999999999999999999 is beyond 64 bits"),
        (graph("y = Relu <a = @b> (x)"), "3:11: a reference needs a type other than graph"),
        (graph("y = Relu <a: graph = @b> (x)"), "3:11: a reference needs a type other than graph"),
        (graph('y = Relu (x) @"k"'), "3:15: expected a label such as 0:ffn.output"),
        (graph('y = Relu <s = "a> (x)'), "3:15: a string that does not end on its line"),
        (graph(r'y = Relu <s = "\q"> (x)'), r"3:15: no escape '\\q'"),
        (graph("y = Relu (x) ~"), "3:14: unexpected '~'"),
        (graph("y = Add (x, c)", "float[2] c = {1}"), "2:50: 1 elements where the shape needs 2"),
        (graph("y = Add (x, c)", "float[N] c = {1}"), "2:48: a tensor needs a shape of numbers"),
        (graph("y = Add (x, c)", "int8[1] c = {128}"), "2:49: 128 is beyond int8 (-128 to 127)"),
        (graph("y = Add (x, c)", "float16[1] c = {65520}"), "2:52: 65520 is beyond float16"),
        (graph("y = Add (x, c)", 'float[1] c = raw "AA=="'), "2:54: 1 bytes where the shape needs 4"),
        (graph("y = Add (x, c)", 'float[1] c = raw "?"'), "2:54: no base64"),
        (graph("y = Add (x, c)", 'float[1] c = elided "sha256:1"'), '2:57: expected "sha256:" and 16'),
        (graph("y = Add (x, c)", "float[99999999] c = {1, ...}"), "2:57: more than 67108864 elements"),
        (graph("y = Relu (x)\ny = Relu (x)"), "makes the value 'y' twice"),
        (graph("y = Relu (a)\na = Relu (y)"), "has a cycle"),
        (HEAD + "g (" + "seq(" * 50, "nested deeper than 24"),
        (HEAD + "g (x) => () { " + "= If <t = g () => () { " * 50, "nested deeper than 24"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(BqcError) as caught:
        from_text(text, "m.onnxtxt")
    assert str(caught.value).startswith("m.onnxtxt:" + message if message[0].isdigit() else "m.onnxtxt:")
    assert message in str(caught.value)


def test_strings_keep_their_last_bytes() -> None:
    tensor = constant(r'string[3] c = {"a\x00", "\xff", "é\n"}')
    assert isinstance(tensor, ir.StringTensor)
    assert list(tensor.string_data()) == [b"a\x00", b"\xff", "é\n".encode()]
    text = to_text(from_text(graph("y = Add (x, c)", r'string[1] c = {"a\x00"}')))
    assert r'{"a\x00"}' in text

"""What kernels say to wrong models and inputs; shape inference; one kernel run from many threads."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bqc.ops import constants, reference
from bqc.runtime.library import library_path
from bqc.runtime.native import native
from tests.parity.test_kernels_against_reference import Maker, linear_attributes, model, session

CONSTANT = {2, 3, 4}
FLOAT = np.zeros((1, 1), np.float32)


def linear(lead: tuple[int, ...] = (2, 3)) -> list[Any]:
    return Maker(1).linear(lead, 64, 20, 8, 32)


def run(inputs: list[Any], attributes: dict[str, Any], constant: set[int], feeds: list[Any]) -> Any:
    blob = model("BlockLinear", inputs, constant, [np.zeros((1, 1, 1), np.float32)], attributes)
    names = [f"in{i}" for i in range(len(inputs)) if i not in constant]
    return session(blob, 1).run(None, dict(zip(names, feeds, strict=True)))


def rejects(match: str, inputs: list[Any], constant: set[int] = CONSTANT, **changes: Any) -> None:
    with pytest.raises(Exception, match=match) as caught:
        run(inputs, linear_attributes(8, 32, 0) | changes, constant, inputs[:2])
    assert "BlockLinear" in str(caught.value)
    assert "the BlockLinear" in str(caught.value), "names the node"


def test_weight_must_be_constant() -> None:
    inputs = linear()
    with pytest.raises(Exception, match="weight must be a constant initializer"):
        run(inputs, linear_attributes(8, 32, 0), {3, 4}, inputs[:3])


def test_wrong_attributes() -> None:
    rejects("attribute bits is 7", linear(), bits=7)
    rejects("block -1", linear(), block=-1)
    rejects("'n8k8'; this library reads 'n16k4'", linear(), layout="n8k8")
    rejects("not a whole number of groups of 48", linear(), group=48)


def test_weights_that_do_not_fit() -> None:
    for index, cut, match in (
        (2, np.s_[:1], "weight"),
        (3, np.s_[:, :16], "weight_exponents"),
        (4, np.s_[:0], "bias"),
    ):
        inputs = linear()
        inputs[index] = np.ascontiguousarray(inputs[index][cut])
        rejects(match, inputs)
    inputs = linear()
    inputs[2] = inputs[2][:, ::2].copy()
    rejects("does not fit a weight of 32 padded inputs", inputs)
    for tiles in (1, 4):
        inputs = linear()
        inputs[2] = np.zeros((len(inputs[2]), tiles, 16, 4), np.uint8)
        rejects("is no whole number of 16 inputs", inputs, bits=3)
    inputs = linear()
    inputs[3] = inputs[3].astype(np.int64)
    with pytest.raises(Exception, match=r"weight_exponents|Type"):
        run(inputs, linear_attributes(8, 32, 0), CONSTANT, inputs[:2])


@pytest.mark.parametrize("exponent", [-127, -128])
def test_stored_exponents_without_a_power_of_two(exponent: int) -> None:
    inputs = linear()
    inputs[3][1, 5] = exponent
    rejects(rf"weight_exponents \[2, 32\] hold {exponent}; an exponent is at least -126", inputs)
    make = Maker(2)
    table = [make.r.integers(0, 255, (8, 16)).astype(np.uint8), make.exponents(8, 1)]
    table[1][7, 0] = exponent
    ids = np.zeros((1, 1), np.int64)
    attributes = {"columns": 16, "bits": 8, "block": 16, "layout": "row"}
    with pytest.raises(Exception, match=rf"'the BlockGather': table exponents \[8, 1\] hold {exponent}"):
        session(model("BlockGather", [ids, *table], {1, 2}, [FLOAT[None]], attributes), 1)


@pytest.mark.parametrize("value", [2**63 - 1, 2**62, 2**40, -(2**63), 0])
def test_attributes_that_no_size_arithmetic_can_hold(value: int) -> None:
    make = Maker(2)
    ids = np.zeros((1, 1), np.int64)
    table = [make.r.integers(0, 255, (8, 16)).astype(np.uint8), make.exponents(8, 1)]
    for name in ("columns", "bits"):
        attributes = {"columns": 16, "bits": 8, "block": 16, "layout": "row"} | {name: value}
        with pytest.raises(Exception, match=r"BlockGather: node 'the BlockGather': "):
            session(model("BlockGather", [ids, *table], {1, 2}, [FLOAT[None]], attributes), 1)
    rejects("bits", linear(), bits=value)
    if value:
        rejects("group|whole number|fit", linear(), group=value)
    if value <= 0:
        rejects("block", linear(), block=value)
    pair = make.pair(1, 4, 64, block=32, group=32)
    values = make.codes(1, 4, 64), make.exponents(1, 2)
    inputs = [*pair, *pair, *values, np.ones((1, 4), np.int64)]
    attributes = {"heads": value, "block": 32, "scale": 1.0, "out_bits": 8}
    blob = model("BlockAttention", inputs, set(), list(pair), attributes)
    with pytest.raises(Exception, match=r"the BlockAttention.*heads"):
        session(blob, 1).run(None, {f"in{i}": x for i, x in enumerate(inputs)})


def test_activation_exponents_may_be_anything() -> None:
    """They are computed while running, so garbage in them gives garbage, but nothing worse."""
    inputs = linear()
    inputs[1][:] = np.resize(np.array([-128, -127, 127, 0], np.int8), inputs[1].shape)
    (y,) = run(inputs, linear_attributes(8, 32, 0), CONSTANT, inputs[:2])
    assert y.shape == (2, 3, 20)


@pytest.mark.parametrize("tokens", [1000, 4096])
def test_long_sequences(tokens: int) -> None:
    """All the 16 million products of two sequences of 4096, checked in a few rows."""
    make = Maker(6)
    q, k = make.pair(1, tokens, 16, block=16), make.pair(1, tokens, 16, block=16)
    values = make.codes(1, tokens, 16), make.exponents(1, 1)
    mask = (make.r.random((1, tokens)) < 0.9).astype(np.int64)
    attributes = {"heads": 1, "block": 16, "scale": 0.25, "out_bits": 8}
    inputs = [*q, *k, *values, mask]
    blob = model("BlockAttention", inputs, set(), list(q), attributes)
    codes, exponents = session(blob, 2).run(None, {f"in{i}": x for i, x in enumerate(inputs)})
    rows = [0, 1, tokens // 2, tokens - 1]
    scores = reference.block_scores(q[0], q[1], k[0], k[1], heads=1, block=16, scale=0.25)[:, :, rows]
    p = reference.masked_softmax(scores, mask)
    blob = model("MaskedSoftmax", [scores, mask], set(), [p], {})
    np.testing.assert_array_equal(session(blob, 2).run(None, {"in0": scores, "in1": mask})[0], p)
    full = np.zeros((1, 1, tokens, tokens), np.uint8)
    full[:, :, rows] = p
    full[:, :, ~np.isin(np.arange(tokens), rows), 0] = 1
    context = reference.block_context(full, *values, heads=1, block=16)
    expected = reference.block_quantize(context[:, rows], bits=8, block=16, group=16)
    np.testing.assert_array_equal(codes[:, rows], expected[0])
    np.testing.assert_array_equal(exponents[:, rows], expected[1])


def test_more_tokens_than_a_sum_can_hold() -> None:
    make = Maker(6)
    tokens = 65537
    values = np.zeros((1, tokens, 1), np.int8), make.exponents(1, 1)
    pair = values[0], np.zeros((1, tokens, 1), np.int8)
    inputs = [*pair, *pair, *values, np.ones((1, tokens), np.int64)]
    attributes = {"heads": 1, "block": 16, "scale": 1.0, "out_bits": 8}
    blob = model("BlockAttention", inputs, set(), list(pair), attributes)
    with pytest.raises(Exception, match="a sequence has 65537 tokens; it can have 65536"):
        session(blob, 1).run(None, {f"in{i}": x for i, x in enumerate(inputs)})


def test_activations_that_do_not_fit() -> None:
    inputs = linear()
    inputs[1] = inputs[1][..., :1].copy()
    rejects(r"input codes \[2, 3, 64\] and exponents \[2, 3, 1\]", inputs)
    inputs = linear()
    inputs[0] = np.zeros((2, 3, 32), np.int8)
    rejects("does not fit", inputs)


def test_ids_outside_the_table() -> None:
    make = Maker(2)
    ids = np.array([[1, -9], [7, 2]], np.int64)
    table = [make.r.integers(0, 255, (8, 16)).astype(np.uint8), make.exponents(8, 1)]
    blob = model(
        "BlockGather",
        [ids, *table],
        {1, 2},
        [FLOAT[None]],
        {"columns": 16, "bits": 8, "block": 16, "layout": "row"},
    )
    with pytest.raises(Exception, match=r"'the BlockGather': id -9 of table is outside \[-8, 8\)"):
        session(blob, 1).run(None, {"in0": ids})


def tiled_gather(rows: int = 21, **changed: Any) -> bytes:
    """A lookup in tiles of `rows` x 40 codes, with other inputs (`tiles`, `scales`) or attributes."""
    make = Maker(2)
    tiles = make.r.integers(0, 255, (2, 12, 16, 4)).astype(np.uint8)
    inputs = [np.zeros((1, 1), np.int64), tiles, make.exponents(3, 32)]
    inputs[1], inputs[2] = changed.pop("tiles", inputs[1]), changed.pop("scales", inputs[2])
    attributes = {"columns": 40, "rows": rows, "bits": 8, "block": 16, "layout": "n16k4"} | changed
    return model("BlockGatherTiles", inputs, {1, 2}, [FLOAT[None]], attributes)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (r"table \[2, 12, 16, 4\] does not fit attribute rows 33", {"rows": 33}),
        (r"table \[2, 12, 16, 4\] does not fit attribute rows 16", {"rows": 16}),
        (r"does not fit attribute rows -?\d+", {"rows": -(2**63)}),
        (r"table \[2, 12, 16, 4\] should be \[ceil16\(rows\) / 16, 6, 16, 4\]", {"bits": 4}),
        (r"should be .* 16, 16, 4\] for 64 columns of 8 bits", {"columns": 64}),
        (r"should be .* 5, 16, 4\] for 40 columns of 3 bits", {"bits": 3}),
        (r"table scales \[3, 32\] should be \[1, 32\]", {"block": 64}),
        (r"table scales \[3, 21\] should be \[3, 32\]", {"scales": np.zeros((3, 21), np.int8)}),
        (r"table scales \[3, 32\] hold -127", {"scales": np.full((3, 32), -127, np.int8)}),
        (r"table \[1, 12, 16, 4\] does not fit", {"tiles": np.zeros((1, 12, 16, 4), np.uint8)}),
        (r"layout", {"layout": "row"}),
    ],
)
def test_tiles_that_do_not_fit(message: str, changed: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=rf"node 'the BlockGatherTiles': .*{message}"):
        session(tiled_gather(**changed), 1)


@pytest.mark.parametrize("rows", [17, 21, 32])
def test_ids_outside_the_tiles(rows: int) -> None:
    """Rows that only pad the last strip are none."""
    running = session(tiled_gather(rows), 1)
    for inside in (rows - 1, -rows):
        running.run(None, {"in0": np.array([[inside]])})
    for outside in (rows, -rows - 1, 2**62):
        with pytest.raises(Exception, match=rf"id {outside} of table is outside \[-{rows}, {rows}\)"):
            running.run(None, {"in0": np.array([[outside]])})


def test_attention_shapes() -> None:
    make = Maker(3)
    q = make.pair(1, 4, 64, block=32, group=32)
    values = make.codes(1, 4, 64), make.exponents(1, 2)
    mask = np.ones((1, 5), np.int64)
    outputs = [q[0], q[1]]
    inputs = [*q, *q, *values, mask]
    blob = model(
        "BlockAttention", inputs, set(), outputs, {"heads": 2, "block": 32, "scale": 1.0, "out_bits": 8}
    )
    with pytest.raises(Exception, match=r"mask \[1, 5\] should be \[1, 4\]"):
        session(blob, 1).run(None, {f"in{i}": x for i, x in enumerate(inputs)})


def test_shape_inference() -> None:
    inputs = linear()
    names = [f"in{i}" for i in range(5)]
    attributes = linear_attributes(8, 32, 0) | {"out_bits": 8, "out_block": 16, "out_group": 0}
    node = helper.make_node(
        "BlockLinearQuantize", names, ["codes", "exponents"], domain="ai.bqc", **attributes
    )
    graph = helper.make_graph(
        [node],
        "inference",
        [
            helper.make_tensor_value_info(n, TensorProto.INT8, ["batch", "tokens", w])
            for n, w in (("in0", 64), ("in1", 2))
        ],
        [helper.make_empty_tensor_value_info(n) for n in ("codes", "exponents")],
        [numpy_helper.from_array(x, n) for x, n in zip(inputs[2:], names[2:], strict=True)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.bqc", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    outputs = session(made, 1).get_outputs()
    assert [o.shape for o in outputs] == [["batch", "tokens", 20], ["batch", "tokens", 2]]
    assert [o.type for o in outputs] == ["tensor(int8)"] * 2


def test_kernels_are_reentrant() -> None:
    attributes = linear_attributes(8, 32, 0) | {
        "out_bits": 8,
        "out_block": 32,
        "out_group": 0,
        "approximate": 0,
    }
    first = Maker(4).linear((70,), 64, 48, 8, 32)
    expected = reference.block_linear_gelu(
        *first, bits=8, block=32, group=0, approximate=0, out_bits=8, out_block=32, out_group=0
    )
    shared = session(model("BlockLinearGelu", first, CONSTANT, list(expected), attributes), 2)
    with ThreadPoolExecutor(4) as pool:
        runs = pool.map(lambda _: shared.run(None, {"in0": first[0], "in1": first[1]}), range(40))
        for codes, exponents in runs:
            np.testing.assert_array_equal(codes, expected[0])
            np.testing.assert_array_equal(exponents, expected[1])


def test_library_registers_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BQC_MAX_ISA", "portable")
    native().reset_kernels()
    x = np.zeros((2, 3), np.float32)
    blob = model("Gelu", [x], set(), [x], {})
    for _ in range(5):
        session(blob, 1)
    kernels = native().kernels()
    assert [(k.node, k.op_type, k.isa) for k in kernels] == [("the Gelu", "Gelu", "portable")] * 5


def test_self_test_passes() -> None:
    good, lines = native().self_test()
    assert good
    assert len(lines) > 100


def test_unknown_level_is_no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python refuses such a value; the library itself, which other languages load, does not fail for it."""
    monkeypatch.delenv("BQC_MAX_ISA", raising=False)
    library = native()
    best = library.isa()
    monkeypatch.setenv("BQC_MAX_ISA", "sse9")
    assert library.isa() == best


def test_constants_of_header() -> None:
    """The C++ constants are those of `bqc.ops.constants`."""
    header = Path(__file__).parents[2] / "custom_ops" / "kernels" / "constants.h"
    if not header.is_file():
        pytest.skip("not in a source tree")
    text = header.read_text()

    def numbers(name: str) -> list[float]:
        found = re.search(rf"\b{name}(?:\[\d+\])? =\s*([^;]+);", text)
        assert found, name
        return [
            float.fromhex(n.rstrip("f")) if "x" in n else float(n)
            for n in re.findall(r"-?(?:0x[0-9a-f.]+p[+-]\d+f|\d+)", found[1])
        ]

    scalars = {
        "kMinExponent": constants.MIN_EXPONENT,
        "kMaxStaticExponent": constants.MAX_STATIC_EXPONENT,
        "kNormBits": constants.NORM_BITS,
        "kLog2E": constants.LOG2E,
        "kSoftmaxScale": constants.SOFTMAX_SCALE,
        "kSoftmaxLow": constants.SOFTMAX_LOW,
        "kFloatSoftmaxLow": constants.FLOAT_SOFTMAX_LOW,
        "kTanhLimit": constants.TANH_LIMIT,
        "kGeluLimit": constants.GELU_LIMIT,
        "kFltMax": constants.FLT_MAX,
    }
    for name, value in scalars.items():
        assert numbers(name) == [value], name
    for name, series in {
        "kExp2": constants.EXP2,
        "kGeluErf": constants.GELU_ERF,
        "kGeluTanh": constants.GELU_TANH,
    }.items():
        assert numbers(name) == list(series), name


def test_exports_nothing_else() -> None:

    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no nm")
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert all(name == "RegisterCustomOps" or name.startswith("Bqc") for name in names), names

"""Scheme `binarybert` on small canonical models: what is planned, folded and split, and that the numbers stay."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqc
from bqc.cli import main
from bqc.errors import BqcError
from bqc.formats import Binary, BlockShift, Ternary
from bqc.ir.anatomy import encoder
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import key_of
from bqc.passes._knapsack import best_subset
from bqc.passes._weights import weight_uses
from bqc.passes.annotate_sensitivity import SENSITIVITY_KEY
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.plan_binarybert import PlanBinarybert
from bqc.passes.quantize_weights import QuantizeWeights
from bqc.passes.relu_ffn import ReluFfn
from bqc.passes.split_ternary import SplitTernary
from bqc.plan import Plan
from bqc.runtime.session import session
from bqc.schemes.binarybert import Binarybert
from tests.support.running import first_output

TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}
KINDS = ("split", "ternary", "binary", "two-plane")


def feeds(model: ir.Model) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mask = np.ones((3, 7), np.int64)
    mask[0, 4:] = 0
    full = {"input_ids": rng.integers(0, 100, (3, 7)), "attention_mask": mask}
    full["token_type_ids"] = rng.integers(0, 2, (3, 7))
    return {value.name: full[value.name] for value in model.graph.inputs if value.name}


def run(model: ir.Model, *, kernels: bool = False) -> Any:
    return first_output(model, feeds(model), kernels=kernels)


def lowered(scheme: Binarybert, *more: Any, **sizes: Any) -> ir.Model:
    model = canonical_bert(**{**TINY, **sizes})
    for one in (*scheme.plan(), *more, *scheme.lower()):
        one(model)
    return model


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("bits", [8, 6, 4])
def test_everything_folds(weights: str, bits: int) -> None:
    model = lowered(Binarybert(weights, activation_bits=bits))
    ops = Counter(node.op_type for node in model.graph)
    assert not [
        op for op in ops if op.startswith(("MatMul", "Softmax", "LayerN", "Gelu", "SignDeq", "BlockDeq"))
    ]
    assert ops["SignEmbeddingLayerNorm"] == 1
    assert ops["SignLinearAddNorm"] == 4
    assert ops["SignLinearGelu"] == ops["BlockAttention"] == ops["SignLinearQuantizeValues"] == 2
    assert ops["SignLinearQuantize"] == 4
    assert ops["SignLinear"] == ops["BlockLinear"] == 1  # pooler; last layer


@pytest.mark.parametrize("bits", [8, 4])
def test_relu_folds_too(bits: int) -> None:
    model = lowered(Binarybert(activation_bits=bits, block=64, ffn_activation="relu"))
    ops = Counter(node.op_type for node in model.graph)
    assert ops["SignLinearRelu"] == 2
    assert not [op for op in ops if "Gelu" in op or op == "Relu"]
    assert encoder(model).relus == 2
    assert encoder(model).gelus == 0


def test_relu_takes_the_place_of_gelu() -> None:
    model = canonical_bert(**TINY, gelu="tanh")
    wanted = model.clone()
    for node in wanted.graph:
        if node.op_type == "Gelu":
            node.op_type = "Relu"
            node.attributes.clear()
    assert ReluFfn()(model).modified
    np.testing.assert_array_equal(run(model.clone()), run(wanted))
    assert not ReluFfn()(model).modified
    with pytest.raises(BqcError, match="no FFN of the model has GELU or ReLU"):
        ReluFfn()(lowered(Binarybert()))


@pytest.mark.parametrize("weights", KINDS)
def test_every_step_keeps_the_numbers(weights: str) -> None:
    scheme = Binarybert(weights)
    model = canonical_bert(**TINY)
    for one in (*scheme.plan(), *scheme.lower()[:3]):
        one(model)
    before = run(model, kernels=True)
    for one in scheme.lower()[3:]:
        one(model)
        # Float sums before a fold and integer sums after it may round a code to its neighbour.
        now = run(model, kernels=True)
        np.testing.assert_allclose(now, before, rtol=0, atol=0.01, err_msg=type(one).__name__)
    np.testing.assert_array_equal(run(model), now)


def test_quantised_weights_are_those_of_the_formats() -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert(weights="two-plane")(model)
    plain = {key_of(node): (weight, axis) for node, weight, axis in weight_uses(model)}
    wanted = {
        key: fmt.restore(fmt.quantized(m), m.shape)
        for key, (w, axis) in plain.items()
        for fmt in [Plan.of(model).weights[key]]
        for m in [w.const_value.numpy().T if axis == 0 else w.const_value.numpy()]
    }
    QuantizeWeights()(model)
    for node in [n for n in model.graph if n.op_type == "SignDequantize"]:
        signs, scales = (v.const_value.numpy() for v in node.inputs)
        np.testing.assert_array_equal(Binary(planes=2).dequantize(signs, scales), wanted[key_of(node)])


@pytest.mark.parametrize("shared", [False, True])
def test_the_split_model_computes_what_the_ternary_one_did(shared: bool) -> None:
    """Before any training: the sums are the latent weights, the binary halves the ternary weights."""
    model = canonical_bert(**TINY)
    rng = np.random.default_rng(1)
    for value in model.graph.initializers.values():  # weights whose mean is not 0
        if len(value.shape or ()) == 2:
            data = value.const_value.numpy() + 0.03 * rng.random(value.shape.numpy())
            value.const_value = ir.Tensor(data.astype(np.float32), name=value.name)
    if shared:
        weights = {n.metadata_props["bqc.role"]: (n, w) for n, w, a in weight_uses(model) if a == 0}
        for node, weight, axis in list(weight_uses(model)):
            if axis == 0 and node.metadata_props["bqc.layer"] == "0":
                node.replace_input_with(1, weights[node.metadata_props["bqc.role"]][1])
                assert weight is not None
    scheme = Binarybert()
    for one in scheme.plan():
        one(model)
    float_model, ternary = model.clone(), model.clone()
    assert SplitTernary()(model).modified
    np.testing.assert_allclose(run(model.clone()), run(float_model), rtol=0, atol=1e-5)
    formats = Counter(map(str, Plan.of(model).weights.values()))
    assert not any(text.startswith("Ternary") for text in formats)
    assert formats["Binary(row,scales=fp16,planes=2)"] == 1
    for one in scheme.lower():
        one(model)
        one(ternary)
    stored = [v for v in model.graph.initializers.values() if v.name.endswith((".first", ".second"))]
    assert not stored
    np.testing.assert_allclose(run(model), run(ternary), rtol=0, atol=2e-5)


def test_a_second_split_finds_nothing() -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert()(model)
    SplitTernary()(model)
    assert not SplitTernary()(model).modified


@pytest.mark.parametrize("plan", [PlanBinarybert(), PlanBbct()])
def test_a_split_model_is_not_planned_again(plan: PlanBinarybert | PlanBbct) -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert()(model)
    SplitTernary()(model)
    with pytest.raises(BqcError, match="a weight that is split already; plan the model before split-ternary"):
        plan(model)


def test_a_budget_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "small.onnx"
    sizes = []
    for weights in ("binary", "ternary"):
        model = canonical_bert(**TINY)
        PlanBinarybert(weights=weights)(model)
        sizes.append(data_bytes(model))
    budget = str(sum(sizes) / 2 / 2**20)
    ir.save(canonical_bert(**TINY), source)
    asked = ["compile", str(source), "--scheme", "binarybert", "-o", str(out), "--json"]
    assert main([*asked, "--budget-mib", budget]) == 0
    formats = json.loads(capsys.readouterr().out)["plan"]["weights"].values()
    assert {text.partition("(")[0] for text in formats} == {"Binary", "BlockShift", "Ternary"}
    scores = tmp_path / "s.json"
    signs = "Binary(tensor),Ternary(tensor),Binary(row),Ternary(row)"
    assert (
        main(["sensitivity", str(source), "--metric", "weight-error", "--formats", signs, "-o", str(scores)])
        == 0
    )
    assert main([*asked, "--budget-mib", budget, "--scores", str(scores)]) == 0
    capsys.readouterr()
    for wrong, message in (("nan", "it is a number above 0"), ("0.01", "with all of them binary")):
        assert main([*asked[:-1], "--budget-mib", wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_sum_needs_a_format_of_two_planes() -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert()(model)
    SplitTernary()(model)
    plan = Plan.of(model)
    plan.weights["0:ffn.output"] = BlockShift(8, "row")
    plan.attach(model)
    with pytest.raises(BqcError, match="is the sum of two weights, which BlockShift"):
        QuantizeWeights()(model)


def test_plan() -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert(
        weights="binary", activation_bits=4, block=64, position_bits=32, exclude=("1:ffn.output",)
    )(model)
    plan = Plan.of(model)
    assert plan.weights["0:attention.output"] == Binary(group=24)
    assert plan.weights["0:ffn.output"] == plan.weights["head:pooler"] == Binary()
    assert plan.weights["embedding:embedding.word"] == Binary("row", scales="fp16")
    assert plan.weights["head:head"] == BlockShift(8, 64)
    assert set(plan.kept) == {"1:ffn.output", "embedding:embedding.type", "embedding:embedding.position"}
    assert plan.activations["head:pooler"] == BlockShift(8, 64)  # the last layer reads it
    assert plan.activations["0:ffn.gelu"] == BlockShift(4, 64)
    assert plan.activations["0:attention.context"] == BlockShift(4, 64, 24)
    assert Plan.from_yaml(plan.to_yaml(), "plan") == plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "sparse"}, "there are no sparse weights; use one of split, ternary, binary, two-plane"),
        ({"activation_bits": 2}, "activations have no 2 bits; use 8, 6 or 4"),
        ({"position_bits": 16}, "position tables have no 16 bits; use 8 or 32"),
        ({"block": 48}, "no block 48"),
        ({"ffn_activation": "gelu"}, "FFNs have no activation gelu; use keep or relu"),
        ({"parameters": "fp8"}, "parameters have no type fp8; use fp16 or fp32"),
        ({"table_scales": "fp8"}, "scales of a table have no type fp8; use fp16 or fp32"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BqcError, match=message):
        Binarybert(**options)


@pytest.mark.parametrize("weights", KINDS)
def test_kernels_give_the_bits_of_the_bodies(weights: str, tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    given = feeds(model)
    result = bqc.compile(model, "binarybert", tmp_path / "small.onnx", weights=weights, activation_bits=6)
    plain = ort.InferenceSession(str(result.paths[0]), providers=["CPUExecutionProvider"])
    fast = session(result.paths[0], strict=True)
    np.testing.assert_array_equal(fast.run(None, given)[0], plain.run(None, given)[0])


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("positions", [8, 32])
def test_scales_of_the_table(weights: str, positions: int, tmp_path: Path) -> None:
    """In fp16 they are stored and read as such, and what is computed stays near."""
    outputs = {}
    for scales in ("fp16", "fp32"):
        model = canonical_bert(**TINY)
        given = feeds(model)
        path = tmp_path / f"{scales}.onnx"
        bqc.compile(model, "binarybert", path, weights=weights, position_bits=positions, table_scales=scales)
        stored = ir.load(path).graph.initializers
        (name,) = (name for name in stored if "word" in name and name.endswith("scales"))
        assert stored[name].dtype == (ir.DataType.FLOAT16 if scales == "fp16" else ir.DataType.FLOAT)
        plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)[0]
        np.testing.assert_array_equal(session(path, strict=True).run(None, given)[0], plain)
        outputs[scales] = plain
    # A code of an activation that is rounded to its neighbour is more than what scales lose.
    assert np.abs(outputs["fp16"] - outputs["fp32"]).max() < 0.2 * np.abs(outputs["fp32"]).max()


@pytest.mark.parametrize("weights", KINDS)
def test_biases_and_norms_in_fp16(weights: str, tmp_path: Path) -> None:
    """They are stored and read as such, what is computed stays near, and a recipe keeps the choice."""
    outputs = {}
    for parameters in ("fp16", "fp32"):
        model = canonical_bert(**TINY)
        given = feeds(model)
        path, recipe = tmp_path / f"{parameters}.onnx", tmp_path / f"{parameters}.yaml"
        bqc.compile(model, "binarybert", path, weights=weights, parameters=parameters)
        loaded = ir.load(path)
        vectors = [
            v for v in loaded.graph.initializers.values() if (v.name or "").endswith(("bias", "norm.weight"))
        ]
        wanted = ir.DataType.FLOAT16 if parameters == "fp16" else ir.DataType.FLOAT
        assert len(vectors) > 20
        assert {v.dtype for v in vectors} == {wanted}
        plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)[0]
        np.testing.assert_array_equal(session(path, strict=True).run(None, given)[0], plain)
        recipe.write_text(Plan.of(loaded).to_yaml(), encoding="utf-8")
        again = bqc.compile(canonical_bert(**TINY), "binarybert", tmp_path / "again.onnx", recipe=recipe)
        assert again.paths[1].read_bytes() == path.with_name(f"{path.name}.data").read_bytes()
        outputs[parameters] = plain
    assert np.abs(outputs["fp16"] - outputs["fp32"]).max() < 0.2 * np.abs(outputs["fp32"]).max()


def test_what_fp16_cannot_hold_stays(tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    name = next(name for name in model.graph.initializers if name.endswith("0.ffn.output.bias"))
    bias = model.graph.initializers[name]
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(1e5), name=name)
    bqc.compile(model, "binarybert", tmp_path / "large.onnx")
    stored = ir.load(tmp_path / "large.onnx").graph.initializers
    assert stored[name].dtype == ir.DataType.FLOAT
    assert sum(v.dtype == ir.DataType.FLOAT16 for v in stored.values()) > 20


def test_a_table_whose_scales_fp16_cannot_hold(tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    (word,) = (w for n, w, _ in weight_uses(model) if key_of(n) == "embedding:embedding.word")
    assert word is not None
    word.const_value = ir.Tensor(word.const_value.numpy() * np.float32(1e-5), name=word.name)
    with pytest.raises(BqcError, match=r"embedding.word\) has scales up to .*; use scales in fp32"):
        bqc.compile(model, "binarybert", tmp_path / "small.onnx")
    bqc.compile(model, "binarybert", tmp_path / "small.onnx", table_scales="fp32")


def test_a_float_table_of_positions_stays_near() -> None:
    """The published form keeps it float: only the embedding's operator is another."""
    model = lowered(Binarybert("two-plane", position_bits=32))
    ops = Counter(node.op_type for node in model.graph)
    assert ops["SignGather"] == 1
    assert not ops["SignEmbeddingLayerNorm"] + ops["BlockGather"]
    other = run(lowered(Binarybert("two-plane")))
    assert np.abs(run(model) - other).max() < 0.2 * np.abs(other).max()


def test_a_table_that_is_a_decoder_too_keeps_eight_bits() -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert()(model)
    formats = Plan.of(model).weights
    assert isinstance(formats["embedding:embedding.word"], Ternary)


def test_planes_keep_the_labels_and_the_name_of_their_weight() -> None:
    model = canonical_bert(**TINY)
    scheme = Binarybert()
    for one in scheme.plan():
        one(model)
    names = {w.name: key_of(node) for node, w, _ in weight_uses(model) if key_of(node).startswith("1:")}
    for one in (SplitTernary(), *scheme.lower()):
        one(model)
    stored = model.graph.initializers
    for name, key in names.items():
        assert key_of(stored[f"{name}.signs.planes"]) == key


@given(st.lists(st.tuples(st.floats(-1, 9), st.integers(1, 12)), max_size=9), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_the_knapsack_is_solved_exactly(items: list[tuple[float, int]], capacity: int) -> None:
    gains, costs = [gain for gain, _ in items], [cost for _, cost in items]
    chosen = best_subset(gains, costs, capacity)
    assert sum(costs[i] for i in chosen) <= capacity
    subsets = (c for n in range(len(items) + 1) for c in itertools.combinations(range(len(items)), n))
    best = max(sum(gains[i] for i in c) for c in subsets if sum(costs[i] for i in c) <= capacity)
    assert sum(gains[i] for i in chosen) == pytest.approx(best)


@pytest.mark.parametrize("weights", ["binary", "ternary", "two-plane"])
@pytest.mark.parametrize("positions", [8, 32])
def test_predicted_bytes_are_those_of_the_file(weights: str, positions: int, tmp_path: Path) -> None:
    """A budget counts what is written, but for the few constants that folding drops."""
    model = canonical_bert(**TINY)
    PlanBinarybert(weights=weights, position_bits=positions)(model)
    plan = Plan.of(model)
    expected = float_bytes(model)
    for node, weight, axis in weight_uses(model):
        fmt, shape = plan.weights.get(key_of(node)), weight.const_value.shape.numpy()
        if fmt is not None:
            rows, columns = shape if axis == 1 else shape[::-1]
            expected += fmt.stored_bytes(rows, columns, table=axis == 1) - weight.const_value.nbytes
    result = bqc.compile(
        canonical_bert(**TINY), "binarybert", tmp_path / "a.onnx", weights=weights, position_bits=positions
    )
    stored = ir.load(result.paths[0]).graph.initializers.values()
    extra = sum(v.const_value.nbytes for v in stored if (v.name or "").startswith("bqc."))
    assert sum(v.const_value.nbytes for v in stored) - extra == pytest.approx(expected, abs=256)


def test_a_budget_keeps_the_weights_that_gain_most() -> None:
    sizes = {}
    for weights in ("binary", "ternary"):
        model = canonical_bert(**TINY)
        PlanBinarybert(weights=weights)(model)
        sizes[weights] = model
    low, high = (data_bytes(sizes[name]) for name in ("binary", "ternary"))
    for part in (0.0, 0.3, 0.6, 1.0):
        model = canonical_bert(**TINY)
        budget = low + part * (high - low)
        PlanBinarybert(budget_mib=(budget + 1) / 2**20)(model)
        used = data_bytes(model)
        assert low <= used <= budget + 1
        count = sum(isinstance(fmt, Ternary) for fmt in Plan.of(model).weights.values())
        assert (count == 0) == (part == 0)
        assert (count == 14) == (part == 1)
    with pytest.raises(BqcError, match=r"the budget is 0\.01 MiB; the weights take 0"):
        PlanBinarybert(budget_mib=0.01)(canonical_bert(**TINY))
    for wrong in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(BqcError, match="it is a number above 0"):
            PlanBinarybert(budget_mib=wrong)
    with pytest.raises(BqcError, match="with weights binary none is"):
        PlanBinarybert(weights="binary", budget_mib=1)
    with pytest.raises(BqcError, match=r"give budget_mib \(--budget-mib\) too"):
        Binarybert(scores="s.json")


def test_a_budget_is_spent_by_scores() -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert()(model)
    high = data_bytes(model)
    favourite = "1:attention.key"
    for node, _, _ in weight_uses(model):
        spans = ("tensor", "row")
        better = 1.0 if key_of(node) == favourite else 0.001
        scores = {
            f"{kind}({s})": 2.0 - better * (kind == "Ternary")
            for s in spans
            for kind in ("Binary", "Ternary")
        }
        node.metadata_props[SENSITIVITY_KEY] = json.dumps(scores)
    cost = 2304 // 8 + 4
    PlanBinarybert(weights="ternary", budget_mib=(high - 13 * cost) / 2**20)(model)
    assert isinstance(Plan.of(model).weights[favourite], Ternary)
    for node, _, _ in weight_uses(model):
        node.metadata_props[SENSITIVITY_KEY] = json.dumps({"BlockShift(8,64)": 1.0})
    with pytest.raises(BqcError, match="has no score in Binary"):
        PlanBinarybert(budget_mib=1)(model)


def float_bytes(model: ir.Model) -> int:
    """Of a float model whose biases and norms are stored in fp16."""
    values = [v.const_value for v in model.graph.initializers.values()]
    return sum(
        v.nbytes // 2 if len(v.shape) == 1 and v.dtype == ir.DataType.FLOAT else v.nbytes for v in values
    )


def data_bytes(model: ir.Model) -> int:
    """Of the weights that are planned."""
    plan, total = Plan.of(model), float_bytes(model)
    for node, weight, axis in weight_uses(model):
        shape = weight.const_value.shape.numpy()
        rows, columns = shape if axis == 1 else shape[::-1]
        total -= weight.const_value.nbytes
        total += plan.weights[key_of(node)].stored_bytes(rows, columns, table=axis == 1)
    return total

"""Static activations on small canonical models: where their pairs stand, what folds, and that the numbers stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.cli import main
from bqc.errors import BqcError
from bqc.formats import BlockShift, Static
from bqc.formats.static import GELU_MINIMUM
from bqc.ir.anatomy import nodes_of
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import constant, key_of, produced_by
from bqc.passes.fold_matmul import FoldMatMul
from bqc.passes.pack_weights import PackWeights
from bqc.passes.plan_binarybert import PlanBinarybert
from bqc.passes.quantize_activations import QuantizeActivations
from bqc.passes.quantize_weights import QuantizeWeights
from bqc.plan import Plan
from bqc.runtime.session import session
from bqc.schemes.binarybert import Binarybert
from tests.unit.passes.test_binarybert_passes import TINY, feeds, run

EXPONENTS = {"norm": -4, "query": -3, "key": -3, "value": -3, "context": -5, "gelu": -5, "pooler": -7}


def planned(weights: str = "ternary", bits: int = 8, **sizes: Any) -> ir.Model:
    """With an exponent at every static point."""
    model = canonical_bert(**{**TINY, **sizes})
    PlanBinarybert(weights=weights, activation_bits=bits, activations="static")(model)
    plan = Plan.of(model)
    for key, fmt in plan.activations.items():
        if isinstance(fmt, Static):
            exponent = EXPONENTS[key.rpartition(".")[2].rpartition(":")[2]] + 8 - fmt.bits
            plan.activations[key] = replace(fmt, exponent=exponent)
    plan.attach(model)
    return model


def test_plan() -> None:
    model = canonical_bert(**TINY)
    PlanBinarybert(activation_bits=4, activations="static")(model)
    plan = Plan.of(model)
    assert plan.activations["0:ffn.gelu"] == Static(4, minimum=GELU_MINIMUM)
    assert plan.activations["0:attention.context"] == Static(4, group=24)
    assert plan.activations["0:attention.softmax"] == BlockShift(8, "row")
    assert plan.activations["head:pooler"] == Static(8)  # the last layer reads it
    assert len(plan.unscaled) == len(plan.activations) - 2
    assert Plan.from_yaml(plan.to_yaml(), "plan") == plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": "frozen"}, "there are no frozen activations; use dynamic or static"),
        ({"activations": "static", "block": 64}, "have one scale a tensor: leave out block 64"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BqcError, match=message):
        Binarybert(**options)


@pytest.mark.parametrize("weights", ["ternary", "binary", "two-plane"])
@pytest.mark.parametrize("bits", [8, 4])
def test_every_step_keeps_the_numbers(weights: str, bits: int) -> None:
    model = planned(weights, bits)
    passes = Binarybert(weights).lower()
    for one in passes[:3]:
        one(model)
    before = run(model)
    for one in passes[3:]:
        one(model)
        # Float sums before a fold and integer sums after it may round a code to its neighbour.
        np.testing.assert_allclose(run(model), before, rtol=0, atol=0.01, err_msg=type(one).__name__)
    ops = Counter(node.op_type for node in model.graph)
    assert not [
        op
        for op in ops
        if op.startswith(("MatMul", "Softmax", "LayerNormalization", "SignDeq", "BlockDeq", "Sub"))
    ]
    assert ops["StaticQuantize"] == 14
    assert ops["StaticQuantizeValues"] == ops["BlockScores"] == ops["BlockContext"] == 2
    assert ops["SignLinear"] == 13
    assert ops["LayerNorm"] == 5
    assert all(node.domain for node in model.graph if node.op_type in ("Gelu", "Tanh", "LayerNorm"))


def test_products_alone_read_codes() -> None:
    model = planned()
    QuantizeActivations()(model)
    for node in model.graph:
        if node.op_type != "StaticQuantize":
            continue
        readers = {user.op_type for user in node.inputs[0].consumers()} - {"StaticQuantize"}
        assert readers <= {"Add"}  # the residual sum
    (norm,) = [n for n in nodes_of(model, "0", "attention.norm") if n.op_type == "LayerNormalization"]
    assert {user.op_type for user in norm.outputs[0].consumers()} == {"StaticQuantize", "Add"}


def test_what_nothing_multiplies_has_no_codes() -> None:
    model = planned(head="none")
    QuantizeActivations()(model)
    (out,) = model.graph.outputs
    assert out.producer().op_type == "LayerNormalization"


@pytest.mark.parametrize("family", ["signs", "float"])
def test_zero_points_move_into_the_bias(family: str) -> None:
    model = planned()
    if family == "float":
        plan = Plan.of(model)
        del plan.weights["0:ffn.output"], plan.weights["1:ffn.output"]
        plan.attach(model)
    for one in (QuantizeWeights(), QuantizeActivations(), PackWeights()):
        one(model)
    old = {}
    for i in "01":
        (add,) = [n for n in nodes_of(model, i, "ffn.output") if n.op_type == "Add"]
        old[i] = constant(add.inputs[1])
    before = run(model.clone())
    assert [n.op_type for n in model.graph].count("Sub") == 2
    FoldMatMul()(model)
    assert [n.op_type for n in model.graph].count("Sub") == 0
    np.testing.assert_allclose(run(model), before, rtol=0, atol=1e-4)
    float_model = canonical_bert(**TINY)
    for i in "01":
        (node,) = [n for n in nodes_of(model, i, "ffn.output") if n.op_type in ("SignLinear", "Add")]
        bias = constant(node.inputs[4 if family == "signs" else 1])
        (product,) = [n for n in nodes_of(float_model, i, "ffn.output") if n.op_type == "MatMul"]
        matrix = constant(product.inputs[1])
        if family == "signs":
            fmt = Plan.of(model).weights[f"{i}:ffn.output"]
            matrix = fmt.restore(fmt.quantized(matrix.T), matrix.T.shape).T
        offset = Static(8, -5, GELU_MINIMUM).zero * 2.0**-5
        wanted = old[i].astype(np.float64) - offset * matrix.astype(np.float64).sum(0)
        np.testing.assert_array_equal(bias, wanted.astype(np.float32))


def test_a_zero_point_stays_where_the_exponent_is_learned() -> None:
    """In the graph that training runs nothing is folded, and the exponent is an initializer of the point."""
    model = planned()
    for one in Binarybert("ternary", activations="static").simulate():
        one(model)
    (gelu,) = [n for n in nodes_of(model, "0", "ffn.gelu") if n.op_type == "Sub"]
    assert gelu.inputs[1] is produced_by(gelu.inputs[1], "StaticQuantize", "ai.bqc").outputs[2]
    scale = model.graph.initializers["bqc.exponent.0.ffn.gelu"]
    assert key_of(scale) == "0:ffn.gelu"
    assert constant(scale).tolist() == [-5.0]


def test_kernels_give_the_bits_of_the_bodies(tmp_path: Path) -> None:
    model = planned("two-plane", 4)
    given = feeds(model)
    plan = Plan.of(model)
    result = bqc.compile(canonical_bert(**TINY), "binarybert", tmp_path / "small.onnx", recipe=plan)
    plain = ort.InferenceSession(str(result.paths[0]), providers=["CPUExecutionProvider"])
    fast = session(result.paths[0], strict=True)
    np.testing.assert_array_equal(fast.run(None, given)[0], plain.run(None, given)[0])
    alone = {name: value[1:2] for name, value in given.items()}
    # No scale depends on the neighbours in the batch.
    np.testing.assert_array_equal(fast.run(None, alone)[0], fast.run(None, given)[0][1:2])


def test_behind_the_last_attention_only_first_tokens_are_computed() -> None:
    model = planned()
    for one in Binarybert("ternary").lower():
        one(model)
    ranks = {}
    for node in model.graph:
        if node.op_type == "SignLinear":
            ranks[key_of(node)] = len(node.outputs[0].shape)
    assert [key for key, rank in ranks.items() if rank == 2] == [
        *(f"1:{kind}" for kind in ("attention.output", "ffn.intermediate", "ffn.output")),
        "head:pooler",
    ]


def test_without_scales_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "small.onnx"
    ir.save(canonical_bert(**TINY), source)
    asked = ["compile", str(source), "--scheme", "binarybert", "--activations", "static", "-o", str(out)]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert "embedding:embedding.norm has no scale: static activations are calibrated and learned by" in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert main([*asked[:-2], "--dry-run", "--save-recipe", str(tmp_path / "r.yaml")]) == 0
    text = (tmp_path / "r.yaml").read_text(encoding="utf-8")
    assert "0-1:ffn.gelu: Static(8,min=-0.17)" in text
    # A recipe that says the scales can be compiled.
    (tmp_path / "r.yaml").write_text(text.replace("Static(8", "Static(8,-4"), encoding="utf-8")
    assert main(["compile", str(source), "--recipe", str(tmp_path / "r.yaml"), "-o", str(out)]) == 0
    assert main(["compile", str(source), "--activations", "static", "-o", str(out)]) == 2
    assert "scheme bbct has no option --activations" in capsys.readouterr().err


def test_padding_is_not_taken_out(tmp_path: Path) -> None:
    plan = Plan.of(planned())
    with pytest.raises(BqcError, match=r"padding cannot be taken out: .*BlockScores"):
        bqc.compile(canonical_bert(**TINY), "binarybert", tmp_path / "s.onnx", recipe=plan, unpad=True)

"""Recipes with fp16 and 8-bit index weights on small canonical models: what folds, and that the numbers stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.errors import BqcError
from bqc.formats import BlockShift, Half, Index8
from bqc.ir import load
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import key_of
from bqc.passes._weights import weight_uses
from bqc.passes.attach_functions import AttachFunctions
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.quantize_weights import QuantizeWeights
from bqc.plan import Plan
from bqc.runtime.session import session
from bqc.runtime.tables import Tables
from bqc.schemes.lowering import lowering
from tests.support.running import first_output

TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}
FORMATS = [Half(), Index8()]


def feeds(model: ir.Model) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mask = np.ones((3, 7), np.int64)
    mask[0, 4:] = 0
    full = {"input_ids": rng.integers(0, 100, (3, 7)), "attention_mask": mask}
    full["token_type_ids"] = rng.integers(0, 2, (3, 7))
    return {value.name: full[value.name] for value in model.graph.inputs if value.name}


def run(model: ir.Model, *, kernels: bool = False) -> Any:
    return first_output(model, feeds(model), kernels=kernels)


def everywhere(fmt: Any, tables: Any = None) -> Plan:
    """A plan that gives all linears a format, and all tables another or the same, without points."""
    uses = weight_uses(canonical_bert(**TINY))
    return Plan("bbct", {key_of(node): tables or fmt if axis else fmt for node, _, axis in uses})


def mixed(fmt: Any) -> Plan:
    """The plan of bbct, but for the linears of the FFN and the pooler."""
    model = canonical_bert(**TINY)
    PlanBbct()(model)
    plan = Plan.of(model)
    for key in plan.weights:
        if "ffn" in key or "pooler" in key:
            plan.weights[key] = fmt
    return plan


def lowered(plan: Plan, **sizes: Any) -> ir.Model:
    model = canonical_bert(**{**TINY, **sizes})
    plan.attach(model)
    for one in lowering():
        one(model)
    return model


def linears(ops: Mapping[str, int], family: str) -> list[int]:
    """How many linears of a family stand alone, and end in a GELU and in a norm."""
    return [ops.get(f"{family}Linear{form}", 0) for form in ("", "Gelu", "AddNorm")]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_all_linears_fold(fmt: Any) -> None:
    model = lowered(everywhere(fmt))
    ops = Counter(node.op_type for node in model.graph)
    assert linears(ops, fmt.family) == [8, 2, 4]  # six a layer, and the head
    assert ops[f"{fmt.family}Gather"] == 3
    assert ops["LayerNorm"] == 1  # of the embedding
    assert ops["FloatAttention"] == 2
    assert not [op for op in ops if op.startswith("Block") or "Dequantize" in op or op == "HalfRound"]
    exact = {"Shape", "Squeeze", "Range", "Unsqueeze", "Add", "Gather"}
    assert {node.op_type for node in model.graph if not node.domain} <= exact


@pytest.mark.parametrize("plan", [everywhere, mixed], ids=["everywhere", "mixed"])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_step_keeps_the_numbers(fmt: Any, plan: Any) -> None:
    model = canonical_bert(**TINY)
    was = run(model)
    plan(fmt).attach(model)
    passes = lowering()
    for one in passes[:3]:
        one(model)
    before = run(model, kernels=True)
    assert np.abs(before - was).max() < (0.05 if plan is everywhere else 0.2) * np.abs(was).max()
    for one in passes[3:]:
        one(model)
        now = run(model, kernels=True)
        np.testing.assert_allclose(now, before, rtol=0, atol=0.01, err_msg=type(one).__name__)
    np.testing.assert_array_equal(run(model), now)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_points_before_and_after_stay_blocks(fmt: Any) -> None:
    """A linear in fp16 reads what is dequantised, and what it gives is quantised again by an operator of its own."""
    model = lowered(mixed(fmt))
    ops = Counter(node.op_type for node in model.graph)
    assert linears(ops, fmt.family) == [1, 2, 2]
    assert ops["BlockLinearQuantize"] == 4
    assert ops["BlockLinearAddNorm"] == 2  # after attention
    assert ops["BlockAttention"] == 2
    for node in model.graph:
        if node.op_type.startswith(f"{fmt.family}Linear"):
            assert node.inputs[0] is not None
            assert node.inputs[0].producer().op_type == "BlockDequantize"
    assert not [op for op in ops if op.endswith("DequantizeTiles") or op == "HalfRound"]


def test_the_plan_decides_who_rounds() -> None:
    """One HalfRound serves query, key and value; linears of other formats read their input as it is."""
    model = canonical_bert(**TINY)
    plan = everywhere(Half())
    for key in list(plan.weights):
        if key.endswith(("attention.output", "pooler")):
            del plan.weights[key]
    plan.attach(model)
    for one in lowering()[:3]:
        one(model)
    rounds = [node for node in model.graph if node.op_type == "HalfRound"]
    assert [len(node.outputs[0].uses()) for node in rounds] == [3, 1, 1, 3, 1, 1, 1]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_quantised_weights_are_those_of_the_formats(fmt: Any) -> None:
    model = canonical_bert(**TINY)
    everywhere(fmt).attach(model)
    plain = {key_of(node): (weight, axis) for node, weight, axis in weight_uses(model)}
    wanted = {}
    for key, (weight, axis) in plain.items():
        matrix = weight.const_value.numpy() if axis else weight.const_value.numpy().T
        wanted[key] = fmt.restore(fmt.parts(matrix), matrix.shape)
    QuantizeWeights()(model)
    AttachFunctions()(model)
    names = {}
    for node in model.graph:
        if node.op_type == f"{fmt.family}Dequantize":
            names[key_of(node)] = node.outputs[0]
    assert names.keys() == wanted.keys()
    model.graph.outputs.extend(names.values())
    data = ir.to_proto(model).SerializeToString()
    found = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds(model))
    for key, got in zip(names, found[-len(names) :], strict=True):
        assert got.tobytes() == np.ascontiguousarray(wanted[key]).tobytes(), key


@pytest.mark.parametrize("make", [everywhere, mixed], ids=["everywhere", "mixed"])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_compiled_by_a_recipe(fmt: Any, make: Any, tmp_path: Path) -> None:
    """From a file, and the same bits with the library and without it."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(make(fmt).to_yaml(), encoding="utf-8")
    model = canonical_bert(**TINY)
    given = feeds(model)
    result = bqc.compile(model, output=tmp_path / "a.onnx", recipe=recipe)
    assert linears(result.operators, fmt.family) == ([8, 2, 4] if make is everywhere else [1, 2, 2])
    fast = session(result.paths[0], strict=True).run(None, given)[0]
    plain = ort.InferenceSession(str(result.paths[0]), providers=["CPUExecutionProvider"]).run(None, given)[0]
    assert np.asarray(fast).tobytes() == np.asarray(plain).tobytes()
    assert Tables(result.paths[0]).rows["input_ids"] == 100


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_predicted_bytes_are_those_of_the_file(fmt: Any, tmp_path: Path) -> None:
    plan = everywhere(fmt)
    expected = 0
    for node, weight, axis in weight_uses(canonical_bert(**TINY)):
        shape = weight.const_value.shape.numpy()
        rows, columns = shape if axis == 1 else shape[::-1]
        expected += plan.weights[key_of(node)].stored_bytes(rows, columns, table=axis == 1)
    result = bqc.compile(canonical_bert(**TINY), output=tmp_path / "a.onnx", recipe=plan)
    stored = load(result.paths[0]).graph.initializers.values()
    assert sum(v.const_value.nbytes for v in stored if "bqc.format" in v.metadata_props) == expected


def test_a_weight_beyond_fp16_is_named() -> None:
    model = canonical_bert(**TINY)
    everywhere(Half()).attach(model)
    name, data = next(
        (weight.name, weight) for node, weight, _ in weight_uses(model) if key_of(node) == "1:ffn.output"
    )
    wrong = np.array(data.const_value.numpy())
    wrong[3, 5] = 70000
    data.const_value = ir.Tensor(wrong, name=name)
    with pytest.raises(
        BqcError, match=rf"weight '{name}' \(1:ffn.output\) holds numbers up to 70000, and fp16 ends at 65504"
    ):
        QuantizeWeights()(model)


def test_layers_of_different_formats_do_not_meet() -> None:
    """A plan may mix all of them, block formats in groups of heads included."""
    plan = mixed(Half())
    plan.weights["0:attention.output"] = Index8()
    plan.weights["1:ffn.output"] = BlockShift(4, 64)
    model = lowered(plan)
    ops = Counter(node.op_type for node in model.graph)
    assert linears(ops, "Index") == [0, 0, 1]
    assert linears(ops, "Half") == [1, 2, 1]
    run(model)

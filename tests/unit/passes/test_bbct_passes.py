"""The passes from plan to artifact on small canonical models: counts, numbers, and near misses that must not fold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir.anatomy import nodes_of
from bqc.ir.synthetic import canonical_bert
from bqc.passes.annotate_sensitivity import SENSITIVITY_KEY, AnnotateSensitivity
from bqc.passes.finalize import Finalize
from bqc.passes.fold_attention import FoldAttention
from bqc.passes.fold_embedding import FoldEmbedding
from bqc.passes.fold_gelu import FoldGelu
from bqc.passes.fold_head import FoldHead
from bqc.passes.fold_layernorm import FoldLayerNorm
from bqc.passes.fold_matmul import FoldMatMul
from bqc.passes.fold_softmax import FoldSoftmax
from bqc.passes.pack_weights import PackWeights
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.quantize_activations import QuantizeActivations
from bqc.passes.quantize_weights import QuantizeWeights
from bqc.plan import Plan
from tests.support.running import first_output

FOLDS = (FoldEmbedding, FoldMatMul, FoldGelu, FoldLayerNorm, FoldSoftmax, FoldAttention, FoldHead)
TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}


def feeds(model: ir.Model, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask = np.ones((3, 7), np.int64)
    mask[0, 4:] = 0
    mask[1, :2] = 0
    full = {
        "input_ids": rng.integers(0, 100, (3, 7)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (3, 7)),
    }
    return {value.name: full[value.name] for value in model.graph.inputs if value.name}


def run(model: ir.Model, *, kernels: bool = False) -> Any:
    return first_output(model, feeds(model), kernels=kernels)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def qdq(plan: PlanBbct | None = None, **sizes: Any) -> ir.Model:
    model = canonical_bert(**{**TINY, **sizes})
    for one in (plan or PlanBbct(block=16), QuantizeWeights(), QuantizeActivations(), PackWeights()):
        one(model)
    return model


def test_weights_and_pairs_stand_where_the_plan_says() -> None:
    model = canonical_bert(**TINY)
    PlanBbct(block=16)(model)
    QuantizeWeights()(model)
    assert ops(model)["BlockDequantize"] == 3 + 2 * 6 + 2
    QuantizeActivations()(model)
    # Embedding, pooler; per layer query, key, context, two norms, GELU. Values and softmax have their own operators.
    assert ops(model)["BlockQuantize"] == 2 + 2 * 6
    assert ops(model)["BlockQuantizeValues"] == 2
    assert ops(model)["MaskedSoftmax"] == ops(model)["SoftmaxDequantize"] == 2


def test_quantised_model_is_near_the_float_one_and_packing_is_exact() -> None:
    model = canonical_bert(**TINY)
    exact = run(model)
    for one in (PlanBbct(block=16), QuantizeWeights(), QuantizeActivations()):
        one(model)
    lossy = run(model)
    assert 0 < np.abs(lossy - exact).max() < 0.1 * np.abs(exact).max()
    PackWeights()(model)
    np.testing.assert_array_equal(run(model), lossy)


@pytest.mark.parametrize(
    ("bits", "gelu", "head"),
    # Every two values that can meet do so once.
    [
        (bits, gelu, "none" if i % 2 == j else "classification")
        for i, bits in enumerate((8, 6, 4, 3))
        for j, gelu in enumerate(("none", "tanh"))
    ],
)
def test_every_fold_keeps_the_numbers(bits: int, gelu: Any, head: Any) -> None:
    model = qdq(PlanBbct(block=16, weight_bits=bits), gelu=gelu, head=head)
    previous = run(model, kernels=True)
    for fold in FOLDS:
        assert fold()(model).modified == (fold is not FoldHead or head == "classification"), fold.__name__
        current = run(model, kernels=True)
        # Float sums before a fold and integer sums after it may round a code to its neighbour; not in these models.
        np.testing.assert_allclose(current, previous, atol=1e-5, err_msg=fold.__name__)
        previous = current
    Finalize()(model)
    # Kernels and function bodies have the same bits.
    np.testing.assert_array_equal(run(model), previous)
    left = {
        op for op in ops(model) if op.startswith(("MatMul", "Softmax", "Layer", "Gelu", "BlockDequantizeT"))
    }
    assert not left
    assert ops(model)["BlockLinearAddNorm"] == 4
    assert ops(model)["BlockAttention"] == ops(model)["BlockLinearGelu"] == 2
    assert ops(model)["EmbeddingLayerNorm"] == 1


@pytest.mark.parametrize(
    "sizes", [{"mask": False}, {"token_types": False}, {"heads": 3}, {"hidden": 26, "heads": 1}]
)
def test_models_without_mask_or_types_fold_whole(sizes: dict[str, Any]) -> None:
    model = qdq(**sizes)
    for fold in FOLDS:
        fold()(model)
    assert not ops(model)["MatMul"]
    assert np.isfinite(run(model)).all()


def test_one_exponent_a_tensor_runs_in_plain_onnxruntime() -> None:
    assert np.isfinite(run(qdq(PlanBbct(block="tensor")))).all()


def test_the_qdq_dialect_runs_on_kernels() -> None:
    model = qdq()
    np.testing.assert_allclose(run(model, kernels=True), run(model), atol=1e-6)


@pytest.mark.parametrize(
    "point", ["attention.softmax", "attention.value", "ffn.gelu", "*norm", "attention.context"]
)
def test_points_can_stay_float_one_by_one(point: str) -> None:
    model = qdq(PlanBbct(block=16, float_points=(point,)))
    for fold in FOLDS:
        fold()(model)
    np.testing.assert_allclose(run(model, kernels=True), run(model), atol=1e-6)


def test_labels_and_lineage_survive_folding() -> None:
    model = qdq()
    for fold in FOLDS:
        fold()(model)
    for node in model.graph:
        if node.domain == "ai.bqc":
            assert node.metadata_props["bqc.role"], node
            assert node.metadata_props["bqc.source"], node
            assert all(v.shape is not None and v.type is not None for v in node.outputs), node
    roles = {n.metadata_props["bqc.role"] for n in nodes_of(model, "1")}
    assert {"attention.query", "attention.context", "ffn.intermediate", "ffn.output"} <= roles


def test_different_blocks_do_not_fold_into_one_product() -> None:
    model = canonical_bert(**TINY)
    PlanBbct(block=16)(model)
    plan = Plan.of(model)
    plan.activations["0:ffn.gelu"] = type(plan.activations["0:ffn.gelu"])(8, 32)
    plan.attach(model)
    for one in (QuantizeWeights, QuantizeActivations, PackWeights, FoldMatMul):
        one()(model)
    float_products = [n for n in nodes_of(model, "0", "ffn.output") if n.op_type == "MatMul"]
    assert len(float_products) == 1
    assert np.isfinite(run(model)).all()


def test_a_gelu_with_another_reader_stays() -> None:
    model = qdq()
    FoldMatMul()(model)
    gelu = next(n for n in model.graph if n.op_type == "Gelu")
    model.graph.outputs.append(gelu.outputs[0])
    FoldGelu()(model)
    assert ops(model)["Gelu"] == 1
    assert ops(model)["BlockLinearGelu"] == 1


def test_a_norm_over_another_axis_stays() -> None:
    model = qdq()
    FoldMatMul()(model)
    norm = next(n for n in nodes_of(model, "1", "ffn.norm") if n.op_type == "LayerNormalization")
    norm.attributes["axis"] = ir.AttrInt64("axis", 1)
    FoldLayerNorm()(model)
    assert ops(model)["BlockLinearAddNorm"] == 3


def test_context_in_other_blocks_does_not_become_attention() -> None:
    model = canonical_bert(**TINY)
    PlanBbct(block=16)(model)
    plan = Plan.of(model)
    plan.activations["0:attention.context"] = type(plan.activations["0:attention.context"])(8, 16)
    plan.attach(model)
    for one in (QuantizeWeights, QuantizeActivations, PackWeights, FoldMatMul, FoldSoftmax, FoldAttention):
        one()(model)
    assert ops(model)["BlockAttention"] == 1
    assert ops(model)["BlockContext"] == 1


def test_sensitivity_scores_grow_with_fewer_bits() -> None:
    import json

    model = canonical_bert(**TINY)
    AnnotateSensitivity((8, 6, 4), 16)(model)
    scored = [n for n in model.graph if SENSITIVITY_KEY in n.metadata_props]
    assert len(scored) == 3 + 12 + 2
    for node in scored:
        scores = json.loads(node.metadata_props[SENSITIVITY_KEY])
        assert scores["BlockShift(8,16)"] < scores["BlockShift(6,16)"] < scores["BlockShift(4,16)"]


def plan_of(model: ir.Model, **options: Any) -> Plan:
    AnnotateSensitivity((8, 4), options.get("block", 16))(model)
    PlanBbct(**{"block": 16, **options})(model)
    return Plan.of(model)


def test_plan_keeps_the_worst_weights_at_eight_bits() -> None:
    plan = plan_of(canonical_bert(**TINY), weight_bits=4, max_error=0.012)
    bits = Counter(fmt.bits for key, fmt in plan.weights.items() if not key.startswith("head"))
    assert set(bits) == {4, 8}
    assert all("exceeds 0.012" in why for why in plan.kept.values())


def test_plan_selects_by_pattern() -> None:
    excluded = plan_of(canonical_bert(**TINY), exclude=("1:*", "pooler"))
    assert not any(key.startswith("1:") or key.endswith(":pooler") for key in excluded.weights)
    assert excluded.kept["1:ffn.output"] == "float: excluded"
    included = plan_of(canonical_bert(**TINY), include=("ffn.*",))
    assert {key.split(":")[1] for key in included.weights} == {"ffn.intermediate", "ffn.output"}


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_names_the_nearest(option: str) -> None:
    with pytest.raises(
        BqcError, match=rf"--{option} 'attention\.querry' matches no weight.*attention\.query"
    ):
        plan_of(canonical_bert(**TINY), **{option: ("attention.querry",)})


def test_block_fallbacks() -> None:
    model = {"hidden": 48, "ffn": 80}  # 48 is no multiple of 32, 80 neither
    assert plan_of(canonical_bert(**{**TINY, **model}), block=32).weights["0:ffn.output"].block == 32
    shrunk = plan_of(canonical_bert(**{**TINY, **model}), block=32, fallback="shrink")
    assert shrunk.weights["0:ffn.output"].block == 16
    kept = plan_of(canonical_bert(**{**TINY, **model}), block=32, fallback="keep")
    assert "0:ffn.output" not in kept.weights
    assert "no whole number of blocks" in kept.kept["0:ffn.output"]
    with pytest.raises(BqcError, match="rows of 80 are no whole number of blocks of 32"):
        plan_of(canonical_bert(**{**TINY, **model, "hidden": 64}), block=32, fallback="error")


@pytest.mark.parametrize("fallback", ["shrink", "keep", "pad"])
def test_every_fallback_lowers_and_runs(fallback: str) -> None:
    model = qdq(PlanBbct(block=32, fallback=fallback), ffn=80)
    for fold in FOLDS:
        fold()(model)
    assert np.isfinite(run(model)).all()


def test_recipes_round_trip() -> None:
    plan = plan_of(canonical_bert(**TINY), weight_bits=4, exclude=("0:ffn.output",))
    assert Plan.from_yaml(plan.to_yaml(), "here") == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "not a recipe"),
        ("bqc_recipe: 1\nweight: {}", "unknown key 'weight'"),
        ("bqc_recipe: 1\nweights: {a: int8}", "weights: a: 'int8' is not a format"),
        (
            "bqc_recipe: 1\nweights: {a: sparse}",
            "did you mean Sparse\\? formats are Binary, BlockShift, .*keep it float",
        ),
        (
            "bqc_recipe: 1\nweights:\n  a: Half()\n  a: Half()",
            "r.yaml: 'a' is there twice, the second time in line 4",
        ),
        ("bqc_recipe: 1\nkept: {}\nkept: {}", "r.yaml: 'kept' is there twice"),
        (
            "bqc_recipe: 1\nactivations: {a: Half()}",
            r"a: Half\(\) is a format of weights; points are BlockShift",
        ),
        ("bqc_recipe: [1", "not a YAML file"),
        ("bqc_recipe: 1\nweights: 3", "must map layer:role"),
        (
            "bqc_recipe: 1\nactivations: {a: 'BlockShift(3,64)'}",
            "a: .* of weights; activations have 8, 6 or 4",
        ),
    ],
)
def test_bad_recipes_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BqcError, match=message):
        Plan.from_yaml(text, "r.yaml")


def test_quantising_without_a_plan_is_an_error() -> None:
    with pytest.raises(BqcError, match="no plan"):
        QuantizeWeights()(canonical_bert(**TINY))

"""Formats against dense 8 bits: what is measured, what is decided of it, and what becomes of the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import bqc
from bqc.bench import break_even, products
from bqc.bench.break_even import BreakEven, Speed, back_to_dense, inputs_of
from bqc.bench.latency import Latency
from bqc.bench.products import Product, find_products, time_product
from bqc.bench.report import Machine
from bqc.bench.schedule import Block, Plan
from bqc.errors import BqcError
from bqc.formats import Binary, BlockShift, Half, Index8, Sparse, Ternary, Xnor
from bqc.formats.stored import WeightFormat
from bqc.ir import load
from bqc.ir.anatomy import nodes_of
from bqc.ir.inputs import INPUTS_KEY, input_specs
from bqc.ir.synthetic import canonical_bert
from bqc.passes.plan_bbct import PlanBbct
from bqc.plan import Plan as Recipe

MACHINE = Machine("a CPU", 1, 0.0, 1, "1.0")
QUICK = Plan(rounds=2, seconds=0.001, warm_ups=1, pause=0.0)
FFN = "0:ffn.intermediate"


def planned(model: ir.Model, formats: dict[str, WeightFormat] | None = None, **options: Any) -> ir.Model:
    """The model with the plan of scheme bbct, but for these formats."""
    PlanBbct(**options)(model)
    plan = Recipe.of(model)
    plan.weights.update(formats or {})
    plan.attach(model)
    return model


def compiled(formats: dict[str, WeightFormat], folder: Path, **options: Any) -> ir.Model:
    recipe = Recipe.of(planned(canonical_bert(layers=1), formats))
    path = bqc.compile(canonical_bert(layers=1), output=folder / "m.onnx", recipe=recipe, **options).paths[0]
    return load(path)


def speed(*linears: str, rows: int = 16, ratio: float = 0.9, spread: float = 0.0, fmt: str = "X") -> Speed:
    ends = (ratio - spread, ratio + spread)
    return Speed(fmt, "BlockShift(8,64)", 32, 64, linears, rows, 1.0, ratio, ratio, *ends)


def report(*speeds: Speed) -> BreakEven:
    return BreakEven(MACHINE, "portable", speeds)


def latency(ratio: float) -> Latency:
    return Latency("own", 3, 1 / ratio, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, ratio, ratio, ratio)


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Format -> how many times as fast as dense it shall be found; 1.5 for others."""
    known: dict[str, float] = {}

    def timed(product: Product, rows: Sequence[int], *_: Any) -> list[tuple[Latency, Latency]]:
        return [(latency(1.0), latency(known.get(str(product.format), 1.5))) for _ in rows]

    monkeypatch.setattr(products, "time_product", timed)
    return known


# What is slower


@pytest.mark.parametrize(
    ("ratio", "spread", "slower"),
    [(0.9, 0.05, True), (0.9, 0.1, False), (0.99, 0.0, False), (1.0, 0.0, False), (1.2, 0.1, False)],
)
def test_slower_is_clearly_so_and_in_every_round(ratio: float, spread: float, slower: bool) -> None:
    assert speed(FFN, ratio=ratio, spread=spread).slower is slower


def test_the_line_for_people() -> None:
    one = speed(FFN, ratio=0.9, fmt="Sparse(2,4,8)")
    assert str(one) == "Sparse(2,4,8) at K=32, N=64, 16 rows: 0.90x, slower than dense 8 bits"
    assert str(replace(one, kept_dense=True, rows=1)).endswith("1 row: 0.90x, kept dense")
    assert str(replace(one, left="reason")).endswith("0.90x, slower than dense 8 bits; left: reason")


# What goes back


def test_a_linear_that_is_slower_everywhere_goes_back() -> None:
    model = planned(canonical_bert(layers=1), {FFN: Sparse(2, 4)})
    plan, found = back_to_dense(model, inputs_of(model), report(speed(FFN), speed(FFN, rows=1)))
    assert plan.weights[FFN] == BlockShift(8, 64)
    assert plan.kept[FFN] == "8 bits: Sparse(2,4,8) was measured to be slower"
    assert all(one.kept_dense for one in found.speeds)
    assert {**plan.weights, FFN: Sparse(2, 4)} == Recipe.of(model).weights


def test_blocks_are_those_of_the_inputs() -> None:
    key = "0:attention.output"
    model = planned(canonical_bert(layers=1), {key: Sparse(2, 4, group=16)}, activation_bits=4, block=16)
    plan, _ = back_to_dense(model, inputs_of(model), report(speed(key)))
    assert plan.weights[key] == BlockShift(8, 16, group=16)


@pytest.mark.parametrize("other", [speed(FFN, rows=1, ratio=1.1), speed(FFN, rows=1, ratio=1.0)])
def test_one_that_pays_at_one_shape_stays(other: Speed) -> None:
    model = planned(canonical_bert(layers=1), {FFN: Sparse(2, 4)})
    plan, found = back_to_dense(model, inputs_of(model), report(speed(FFN), other))
    assert plan == Recipe.of(model)
    assert not any(one.kept_dense for one in found.speeds)
    assert [one.slower for one in found.speeds] == [True, False]
    assert [one.left for one in found.speeds] == ["it is not slower at other rows", ""]


def test_one_whose_input_stays_float_stays() -> None:
    model = planned(canonical_bert(layers=1), {FFN: Half()}, float_points=("attention.norm",))
    assert FFN not in inputs_of(model)
    plan, found = back_to_dense(model, inputs_of(model), report(speed(FFN), speed(FFN, ratio=1.1)))
    assert plan == Recipe.of(model)
    assert [one.left for one in found.speeds] == ["the plan gives its input no format", ""]


def test_linears_that_share_a_weight_go_back_together() -> None:
    keys = FFN, "1:ffn.intermediate"
    model = canonical_bert(layers=2)
    first, second = (n for n in nodes_of(model, role="ffn.intermediate") if n.op_type == "MatMul")
    second.replace_input_with(1, first.inputs[1])
    planned(model, dict.fromkeys(keys, Sparse(2, 4)))
    inputs = inputs_of(model)
    plan, found = back_to_dense(model, inputs, report(speed(keys[0]), speed(keys[1], ratio=1.1)))
    assert plan == Recipe.of(model)
    assert found.speeds[0].left == "its weight is shared with one that stays, or a sum of two"
    plan, _ = back_to_dense(model, inputs, report(speed(keys[0]), speed(keys[1])))
    assert [plan.weights[key] for key in keys] == [BlockShift(8, 64)] * 2


def test_a_table_goes_back_with_the_decoder_that_is_its_transpose() -> None:
    model = planned(canonical_bert(layers=1, head="masked-lm"), weight_bits=4, embedding_bits=4)
    plan, _ = back_to_dense(model, inputs_of(model), report(speed("head:head")))
    assert plan.weights["head:head"] == plan.weights["embedding:embedding.word"] == BlockShift(8, 64)
    assert plan.weights[FFN] == BlockShift(4, 64)


def test_every_linear_of_an_encoder_has_its_point() -> None:
    model = planned(canonical_bert(layers=2), activation_bits=6)
    plan = Recipe.of(model)
    found = inputs_of(model)
    assert set(found) == {key for key in plan.weights if not key.startswith("embedding")}
    assert found["0:attention.output"] == BlockShift(6, 64, group=16)
    assert set(found.values()) == {BlockShift(6, 64), BlockShift(6, 64, group=16)}


# What is measured


FORMATS: list[WeightFormat] = [
    Sparse(2, 4),
    Sparse(1, 4, 4),
    BlockShift(4, 64),
    BlockShift(2, 64),
    Ternary("row"),
    Binary("tensor"),
    Xnor("row"),
    Half(),
    Index8("tensor"),
]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_family_is_timed(fmt: WeightFormat, tmp_path: Path) -> None:
    found = find_products(compiled({FFN: fmt}, tmp_path), {FFN: BlockShift(8, 64)})
    (one,) = [product for product in found if not product.is_dense]
    assert (one.format, one.columns, one.rows, one.keys) == (fmt, 32, 64, (FFN,))
    ((dense, own),) = time_product(one, [3], 1 << 12, 1, QUICK)
    assert dense.ratio == 1
    assert own.steady_ms > 0 < own.ratio


def test_linears_that_run_alike_are_one_product(tmp_path: Path) -> None:
    queries = ["0:attention.query", "0:attention.key", "0:attention.value"]
    formats = dict.fromkeys([*queries, "head:pooler", FFN], Sparse(2, 4))
    inputs = inputs_of(planned(canonical_bert(layers=1)))
    for unpad in (False, True):
        found = find_products(compiled(formats, tmp_path, unpad=unpad), inputs)
        sparse = [one for one in found if not one.is_dense]
        # What follows the last attention is computed for first tokens only.
        assert sorted((sorted(one.keys), one.once) for one in sparse) == [
            (sorted(queries), False),
            ([FFN], True),
            (["head:pooler"], True),
        ], unpad
        assert sorted(len(one.nodes) for one in sparse) == [1, 1, 3]


def test_rows_of_shapes(ratios: dict[str, float], tmp_path: Path) -> None:
    model = compiled({"0:attention.query": Sparse(2, 4), "head:pooler": Sparse(2, 4)}, tmp_path)
    inputs = inputs_of(planned(canonical_bert(layers=1)))
    found = break_even.measure(model, inputs, [(1, 16), (1, 64), (8, 32)], 1)
    assert [(one.linears, one.rows) for one in found.speeds] == [
        *((("0:attention.query",), rows) for rows in (16, 64, 256)),
        *((("head:pooler",), rows) for rows in (1, 8)),
    ]


def test_times_are_of_one_product(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run of 4 products that takes 8 s, of dense ones 4 s."""

    def blocks(runs: dict[str, Callable[[int], None]], *_: Any, **__: Any) -> dict[str, list[Block]]:
        for run in runs.values():
            run(0)
        return {"dense": [Block(9.0, [4.0] * 3)], "own": [Block(9.0, [8.0] * 3)]}

    monkeypatch.setattr(products, "alternate", blocks)
    found = find_products(compiled({FFN: Sparse(2, 4)}, tmp_path), {FFN: BlockShift(8, 64)})
    one = next(product for product in found if not product.is_dense)
    ((dense, own),) = time_product(one, [3], 4 * 32 * 64, 1, QUICK)
    assert (dense.steady_ms, own.steady_ms, own.ratio) == (1000, 2000, 0.5)


# Compiling with it


def test_without_keep_dense_the_file_is_the_same(ratios: dict[str, float], tmp_path: Path) -> None:
    ratios["BlockShift(4,64)"] = 0.8
    ir.save(canonical_bert(layers=1), tmp_path / "model.onnx")
    plain = bqc.compile(tmp_path / "model.onnx", output=tmp_path / "a.onnx", weight_bits=4)
    measured = bqc.compile(
        tmp_path / "model.onnx", output=tmp_path / "b.onnx", weight_bits=4, measure=[(1, 16)]
    )
    assert plain.break_even is None
    assert measured.break_even is not None
    assert measured.break_even.slower
    texts = [path.read_bytes().replace(b"b.onnx", b"a.onnx") for path in (plain.paths[0], measured.paths[0])]
    assert texts[0] == texts[1]
    assert plain.paths[1].read_bytes() == measured.paths[1].read_bytes()


def test_what_is_kept_dense_can_be_made_again_from_the_recipe(
    ratios: dict[str, float], tmp_path: Path
) -> None:
    ratios["Sparse(2,4,8)"] = 0.5
    ir.save(canonical_bert(layers=1), tmp_path / "model.onnx")
    formats: dict[str, WeightFormat] = {
        FFN: Sparse(2, 4),
        "0:ffn.output": Ternary("row"),
        "head:pooler": Half(),
    }
    recipe = Recipe.of(planned(canonical_bert(layers=1), formats))
    chosen = bqc.compile(
        tmp_path / "model.onnx",
        output=tmp_path / "a.onnx",
        recipe=recipe,
        measure=[(2, 16)],
        keep_dense=True,
        require_full=True,
        save_recipe=tmp_path / "chosen.yaml",
    )
    assert "SparseLinearGelu" not in chosen.operators
    assert chosen.operators["BlockLinearGelu"] == chosen.operators["HalfLinear"] == 1
    assert any(name == "kept" and FFN in text for name, text in chosen.summary)
    assert Recipe.read(tmp_path / "chosen.yaml") == chosen.plan
    bqc.session(chosen.paths[0], strict=True)
    again = bqc.compile(tmp_path / "model.onnx", output=tmp_path / "b.onnx", recipe=tmp_path / "chosen.yaml")
    assert chosen.paths[0].read_bytes() == again.paths[0].read_bytes().replace(b"b.onnx", b"a.onnx")
    assert chosen.paths[1].read_bytes() == again.paths[1].read_bytes()


def test_a_dry_run_measures_and_writes_the_recipe_alone(ratios: dict[str, float], tmp_path: Path) -> None:
    ratios["BlockShift(4,64)"] = 0.5
    result = bqc.compile(
        canonical_bert(layers=1),
        output=tmp_path / "m.onnx",
        weight_bits=4,
        measure=[(1, 4)],
        keep_dense=True,
        dry_run=True,
        save_recipe=tmp_path / "r.yaml",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
    assert Recipe.read(tmp_path / "r.yaml").weights[FFN] == BlockShift(8, 64)
    assert result.break_even is not None
    assert result.paths == ()


@pytest.mark.parametrize(
    "measure", ["1x16", (1, 16), ["1x16"], ["16"], [(1, 16, 2)], [(0, 16)], [(1, -1)], [(1.5, 16)], 16, None]
)
def test_what_is_no_list_of_shapes_is_refused(measure: Any, tmp_path: Path) -> None:
    with pytest.raises(BqcError, match=r"it is a list of batches x tokens, like \[\(1, 16\), \(8, 128\)\]"):
        bqc.compile(canonical_bert(layers=1), output=tmp_path / "m.onnx", measure=measure)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_what_is_no_number_of_threads_is_refused(threads: Any, tmp_path: Path) -> None:
    with pytest.raises(BqcError, match="it is a number, 1 or more"):
        bqc.compile(canonical_bert(layers=1), output=tmp_path / "m.onnx", measure=[(1, 4)], threads=threads)


def test_refusals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(BqcError, match="go with measure"):
        bqc.compile(canonical_bert(layers=1), output=path, keep_dense=True)
    with pytest.raises(BqcError, match="1x65: the model has positions for 64 tokens; measure 1x64"):
        bqc.compile(canonical_bert(layers=1), output=path, measure=[(1, 65)])
    fixed = canonical_bert(layers=1)
    for value in fixed.graph.inputs:
        value.shape = ir.Shape([2, 8])
    fixed.metadata_props[INPUTS_KEY] = input_specs(fixed).to_json()
    with pytest.raises(BqcError, match="1x8: the model is made for 2x8"):
        break_even.require_shapes(fixed, [(2, 8), (1, 8)])
    monkeypatch.setenv("BQC_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(BqcError, match="kernels cannot be measured: BQC_LIBRARY names"):
        bqc.compile(canonical_bert(layers=1), output=path, measure=[(1, 8)])
    assert not path.exists()

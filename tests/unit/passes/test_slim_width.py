"""`slim-width`: what is kept, that the rest counts as zero, and that a slim model compiles like any other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.contract import contract_of
from bqc.diff import InputChoice, diff
from bqc.errors import BqcError
from bqc.inspect import inspect
from bqc.ir import encoder, import_model
from bqc.ir.anatomy import ANATOMY_KEY, nodes_of, role, weights_of
from bqc.ir.structure import structural_hash
from bqc.ir.synthetic import canonical_bert
from bqc.passes._blocks import layers_of
from bqc.passes.annotate_sensitivity import SENSITIVITY_KEY, AnnotateSensitivity
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.quantize_weights import QuantizeWeights
from bqc.passes.slim_width import IMPORTANCE_KEY, SlimWidth, kept_heads, kept_neurons, write_importance
from bqc.pipeline import run
from bqc.verify import verify
from tests.support.exports import largest_difference
from tests.support.families import Cell, exported
from tests.support.foreign import LAYERS, foreign

Kept = Mapping[str, list[int]]

BETWEEN = "clip-after-attention"
"""Of `LAYERS`, the one that has something between two whole blocks."""


def bert(**options: object) -> ir.Model:
    return canonical_bert(**{"layers": 2, "hidden": 64, "heads": 4, "ffn": 96, **options})  # type: ignore[arg-type]


def array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return np.array(value.const_value.numpy())


def zero_rows(value: ir.Value, rows: list[int]) -> None:
    data = array(value)
    data[rows] = 0
    value.const_value = ir.Tensor(data, name=value.name)


def without(model: ir.Model, heads: Kept, neurons: Kept) -> ir.Model:
    """The model with rows of zeros in the place of all other heads and neurons, of each layer."""
    for one in layers_of(model):
        size = one.attention.head_dim
        gone = set(range(one.attention.heads)) - set(heads[one.name])
        zero_rows(one.attention.output.weight, [head * size + i for head in gone for i in range(size)])
        zero_rows(
            one.ffn.outer.weight,
            sorted(set(range(array(one.ffn.outer.weight).shape[0])) - set(neurons[one.name])),
        )
    return model


def best(scores: np.ndarray, count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def by_weights(model: ir.Model, width: float) -> tuple[Kept, Kept]:
    """What is kept, by the definition: norms of products written out."""
    heads, neurons = {}, {}
    for one in layers_of(model):
        a, f = one.attention, one.ffn
        v = np.vstack([array(a.value.weight), array(a.value.bias)]).astype(np.float64)
        o = array(a.output.weight).astype(np.float64)
        parts = [slice(i * a.head_dim, (i + 1) * a.head_dim) for i in range(a.heads)]
        scores = np.array([np.linalg.norm(v[:, part] @ o[part]) for part in parts])
        heads[one.name] = best(scores, kept_heads(width, a.heads))
        w = np.vstack([array(f.inner.weight), array(f.inner.bias)]).astype(np.float64)
        products = [
            np.linalg.norm(w[:, i]) * np.linalg.norm(array(f.outer.weight)[i]) for i in range(f.neurons)
        ]
        neurons[one.name] = best(np.array(products), kept_neurons(width, f.neurons))
    return heads, neurons


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    "options", [{}, {"head": "masked-lm", "gelu": "tanh"}, {"mask": False, "token_types": False}], ids=str
)
def test_removed_parts_count_as_zero(width: float, options: dict[str, object]) -> None:
    slim, wide = bert(**options), bert(**options)
    kept = by_weights(wide, width)
    assert run(slim, [SlimWidth(width)])[0].modified
    found = encoder(slim)
    assert (found.hidden, found.heads, found.head_dim) == (64, round(4 * width), 16)
    assert found.ffn == {0.25: 32, 0.5: 48, 0.75: 80}[width]
    assert largest_difference(without(wide, *kept), slim) < 1e-5


def test_what_is_kept_stays_in_its_order() -> None:
    slim, wide = bert(), bert()
    heads, neurons = by_weights(wide, 0.5)
    SlimWidth(0.5)(slim)
    for before, after in zip(layers_of(wide), layers_of(slim), strict=True):
        columns = [head * 16 + i for head in heads[before.name] for i in range(16)]
        for name in ("query", "key", "value"):
            old, new = getattr(before.attention, name), getattr(after.attention, name)
            assert np.array_equal(array(old.weight)[:, columns], array(new.weight))
            assert np.array_equal(array(old.bias)[columns], array(new.bias))
            assert new.weight.name == old.weight.name
        assert np.array_equal(
            array(before.attention.output.weight)[columns], array(after.attention.output.weight)
        )
        assert np.array_equal(array(before.attention.output.bias), array(after.attention.output.bias))
        chosen = neurons[before.name]
        assert np.array_equal(array(before.ffn.inner.weight)[:, chosen], array(after.ffn.inner.weight))
        assert np.array_equal(array(before.ffn.inner.bias)[chosen], array(after.ffn.inner.bias))
        assert np.array_equal(array(before.ffn.outer.weight)[chosen], array(after.ffn.outer.weight))


def test_a_head_counts_the_same_however_it_is_spelled() -> None:
    """Another basis of a head's dimensions changes norms of V and O, and not what the head computes."""
    model = bert()
    one = layers_of(model)[0].attention
    kept = by_weights(model, 0.5)[0]["0"]
    turn = np.diag(np.geomspace(0.01, 100, 16)).astype(np.float32)
    value, bias, output = array(one.value.weight), array(one.value.bias), array(one.output.weight)
    gone = next(i for i in range(4) if i not in kept)
    part = slice(gone * 16, gone * 16 + 16)
    value[:, part], bias[part] = value[:, part] @ turn, bias[part] @ turn
    output[part] = np.linalg.inv(turn) @ output[part]
    for where, data in ((one.value.weight, value), (one.value.bias, bias), (one.output.weight, output)):
        where.const_value = ir.Tensor(data, name=where.name)
    wide = bert()
    SlimWidth(0.5)(model)
    SlimWidth(0.5)(wide)
    assert largest_difference(wide, model) == 0


def test_stored_importance_decides() -> None:
    slim, wide = bert(), bert()
    heads, neurons = {"0": [0, 3], "1": [1, 2]}, {"0": list(range(0, 96, 2)), "1": list(range(48))}
    for one in layers_of(slim):
        write_importance(one.attention.softmax, [float(i in heads[one.name]) for i in range(4)])
        write_importance(one.ffn.activation, [float(i in neurons[one.name]) for i in range(96)])
    other = slim.clone()
    run(slim, [SlimWidth(0.5)])
    assert largest_difference(without(wide, heads, neurons), slim) < 1e-5
    # What is kept keeps its importance, so that the model can be slimmed on.
    for one in layers_of(slim):
        assert json.loads(one.attention.softmax.metadata_props[IMPORTANCE_KEY]) == [1.0, 1.0]
        assert json.loads(one.ffn.activation.metadata_props[IMPORTANCE_KEY]) == [1.0] * 48
    SlimWidth(0.5, "weights")(other)
    assert largest_difference(without(bert(), *by_weights(bert(), 0.5)), other) < 1e-5


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("[1, 2, 3]", "the importance of 1:attention.softmax is not 4 numbers"),
        ("{", "the importance of 1:attention.softmax is damaged"),
        ("[1, 2, 3, NaN]", "1:attention: importances are NaN or infinite"),
        (
            None,
            r"1:attention.softmax has no importance: measure it with bqc.train.importance.measure_importance",
        ),
    ],
)
def test_importances_that_do_not_fit(stored: str | None, said: str) -> None:
    model = bert()
    for one in layers_of(model):
        write_importance(one.attention.softmax, range(4))
        write_importance(one.ffn.activation, range(96))
    softmax = layers_of(model)[1].attention.softmax
    if stored is None:
        del softmax.metadata_props[IMPORTANCE_KEY]
    else:
        softmax.metadata_props[IMPORTANCE_KEY] = stored
    before = structural_hash(model, values=True)
    with pytest.raises(BqcError, match=said):
        SlimWidth(0.5).call(model)
    assert structural_hash(model, values=True) == before


def test_stored_importance_is_asked_for_and_missing() -> None:
    with pytest.raises(BqcError, match=r"0:attention\.softmax has no importance"):
        SlimWidth(0.5, "stored").call(bert())


def test_the_whole_width_changes_nothing() -> None:
    model, same = bert(), bert()
    assert not run(model, [SlimWidth(1.0)])[0].modified
    assert structural_hash(model, values=True) == structural_hash(same, values=True)
    assert model.metadata_props == same.metadata_props


@pytest.mark.parametrize("width", [0, -0.5, 1.5, math.nan, math.inf])
def test_no_such_width(width: float) -> None:
    with pytest.raises(BqcError, match="is not above 0 and at most 1"):
        SlimWidth(width)


def test_no_such_importance() -> None:
    with pytest.raises(BqcError, match="importance 'data' is unknown; use one of auto, stored, weights"):
        SlimWidth(importance="data")


@pytest.mark.parametrize(
    ("width", "heads", "kept"), [(0.5, 12, 6), (0.5, 3, 2), (0.5, 1, 1), (0.01, 12, 1), (0.99, 12, 12)]
)
def test_numbers_of_heads(width: float, heads: int, kept: int) -> None:
    assert kept_heads(width, heads) == kept


@pytest.mark.parametrize(
    ("width", "neurons", "kept"),
    [
        (0.5, 3072, 1536),
        (0.5, 48, 32),
        (0.3, 1536, 464),
        (0.5, 8, 4),
        (0.01, 8, 1),
        (0.9, 30, 27),
        (1, 30, 30),
    ],
)
def test_numbers_of_neurons(width: float, neurons: int, kept: int) -> None:
    assert kept_neurons(width, neurons) == kept


def test_it_is_not_idempotent() -> None:
    """Half of a half is a quarter: as its contract says."""
    model = bert()
    SlimWidth(0.5)(model)
    SlimWidth(0.5)(model)
    assert (encoder(model).heads, encoder(model).ffn) == (1, 32)
    contract = contract_of(SlimWidth)
    assert contract is not None
    assert not contract.idempotent


def test_scores_of_the_wide_model_go() -> None:
    model = bert()
    AnnotateSensitivity()(model)
    SlimWidth(0.5)(model)
    assert not [node for node in model.graph if SENSITIVITY_KEY in node.metadata_props]


# Models that are refused


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    model = bert()
    PlanBbct()(model)
    with pytest.raises(BqcError, match="the model has a plan"):
        SlimWidth(0.5).call(model)
    QuantizeWeights()(model)
    with pytest.raises(BqcError, match="quantised already; slim the float model"):
        SlimWidth(0.5).call(model)
    compiled = bqc.compile(bert(), output=tmp_path / "small.onnx").paths[0]
    with pytest.raises(BqcError, match="quantised already; slim the float model"):
        SlimWidth(0.5).call(ir.load(compiled))


def test_a_model_without_anatomy_is_refused() -> None:
    model = bert()
    del model.metadata_props[ANATOMY_KEY]
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    with pytest.raises(BqcError, match="carries no anatomy labels; import it first"):
        SlimWidth(0.5).call(model)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != BETWEEN])
def test_layers_that_are_not_whole_are_refused(name: str) -> None:
    model, _ = import_model(foreign(LAYERS[name][0], "1"))
    before = structural_hash(model, values=True)
    with pytest.raises(BqcError, match="layer 1 is not whole in the canonical form: 1:"):
        SlimWidth(0.5).call(model)
    assert structural_hash(model, values=True) == before


def test_what_is_between_blocks_may_be_anything() -> None:
    change, part = LAYERS[BETWEEN]
    (slim, _), (wide, _) = (import_model(foreign(change, "1")) for _ in range(2))
    kept = by_weights(wide, 0.5)
    run(slim, [SlimWidth(0.5)])
    assert [one.part for one in encoder(slim).float_parts] == [part.format(i=1)]
    assert largest_difference(without(wide, *kept), slim) < 1e-5


def test_labels_without_the_form_are_refused() -> None:
    """Labels that something else wrote on a graph of another form."""
    model = bert()
    del model.metadata_props[ANATOMY_KEY]
    gelu = next(nodes_of(model, "1", "ffn.gelu"))
    gelu.op_type = "Sigmoid"
    gelu.attributes.clear()
    with pytest.raises(BqcError, match=r"layer 1 is not whole in the canonical form: ffn.gelu \(Sigmoid\)"):
        SlimWidth(0.5).call(model)


@pytest.mark.parametrize(
    ("label", "what"),
    [("attention.softmax", "heads"), ("ffn.gelu", "FFN neurons"), ("attention.context", "heads")],
)
def test_what_others_read_cannot_become_narrower(label: str, what: str) -> None:
    model = bert()
    value = next(nodes_of(model, "1", label)).outputs[0]
    model.graph.outputs.append(value)
    before = structural_hash(model, values=True)
    said = f"the {what} of layer 1 cannot be removed: 1:{label} is read by output '.*' of the graph too"
    with pytest.raises(BqcError, match=said):
        SlimWidth(0.5).call(model)
    assert structural_hash(model, values=True) == before


def test_nan_in_a_weight() -> None:
    model = bert()
    weight = layers_of(model)[1].attention.value.weight
    data = array(weight)
    data[0, 0] = np.nan
    weight.const_value = ir.Tensor(data, name=weight.name)
    with pytest.raises(BqcError, match="1:attention: importances are NaN or infinite"):
        SlimWidth(0.5).call(model)


# Families


def test_shared_weights_are_cut_once(tmp_path: Path) -> None:
    path = exported("torchscript", Cell("albert", "masked-lm"))
    (wide, _), (slim, _) = import_model(path), import_model(path)
    heads = {"0": [1.0, 0.0, 0.0, 0.5], "1": [0.0, 0.9, 0.0, 0.6]}
    neurons = {"0": [float(i < 48) for i in range(96)], "1": [0.0] * 96}
    for one in layers_of(slim):
        write_importance(one.attention.softmax, heads[one.name])
        write_importance(one.ffn.activation, neurons[one.name])
    run(slim, [SlimWidth(0.5)])
    for name in ("attention.query", "attention.output", "ffn.intermediate", "ffn.output"):
        matrices = [v for v in weights_of(slim, role=name) if v.shape is not None and len(v.shape) == 2]
        assert len(matrices) == 1
    # The sums are 1, 0.9, 0 and 1.1.
    both = ({"0": [0, 3], "1": [0, 3]}, {"0": list(range(48)), "1": list(range(48))})
    assert largest_difference(without(wide, *both), slim) < 1e-5
    compiles(slim, tmp_path, block=16)


def test_vectors_that_layers_share_are_cut_for_each() -> None:
    """A bias of zeros in one initializer, say, which layers that keep different heads read."""
    slim, wide = bert(), bert()
    for model in (slim, wide):
        first, second = (one.attention for one in layers_of(model))
        second.value.nodes[1].replace_input_with(1, first.value.bias)
        second.key.nodes[1].replace_input_with(1, first.value.bias)
    kept = by_weights(wide, 0.5)
    assert kept[0]["0"] != kept[0]["1"]
    SlimWidth(0.5)(slim)
    assert largest_difference(without(wide, *kept), slim) < 1e-5


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_relative_positions_are_cut_along_the_heads(width: float, tmp_path: Path) -> None:
    path = exported("torchscript", Cell("mpnet", "mean-l2"))
    (wide, _), (slim, _) = import_model(path), import_model(path)
    kept = by_weights(wide, width)
    run(slim, [SlimWidth(width)])
    assert largest_difference(without(wide, *kept), slim) < 1e-5
    for layer in ("0", "1"):
        adds = [n for n in nodes_of(slim, layer, "attention.scores") if n.op_type == "Add"]
        assert role(adds[0].inputs[1].producer()) == "attention.bias"  # type: ignore[union-attr, arg-type]
    if width == 0.5:
        compiles(slim, tmp_path, block=16)


def test_constant_relative_positions() -> None:
    def with_positions() -> ir.Model:
        model = bert(mask=False)
        data = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
        positions = ir.Value(name="positions", const_value=ir.Tensor(data, name="positions"))
        positions.dtype, positions.shape = ir.DataType.FLOAT, ir.Shape(data.shape)
        positions.metadata_props.update({"bqc.layer": "embedding", "bqc.role": "attention.bias"})
        model.graph.register_initializer(positions)
        for one in layers_of(model):
            softmax = one.attention.softmax
            scores = softmax.inputs[0]
            assert scores is not None
            add = ir.node("Add", [scores, positions])
            add.metadata_props.update({"bqc.layer": one.name, "bqc.role": "attention.scores"})
            add.outputs[0].type, add.outputs[0].shape = scores.type, scores.shape
            model.graph.insert_before(softmax, add)
            softmax.replace_input_with(0, add.outputs[0])
        return model

    slim, wide = with_positions(), with_positions()
    kept = by_weights(wide, 0.5)
    assert kept[0]["0"] != kept[0]["1"]
    SlimWidth(0.5)(slim)
    outputs = []
    for model in (without(wide, *kept), slim):
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
        ids = {value.name: np.ones((2, 6), np.int64) for value in session.get_inputs()}
        outputs.append(session.run(None, ids)[0])
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5


# The rest of the compiler


def compiles(slim: ir.Model, folder: Path, **options: object) -> Path:
    """Saved, imported again, compiled, verified with kernels against function bodies; returns the float file."""
    path = folder / "slim.onnx"
    ir.save(slim, path)
    again, summary = import_model(path)
    assert summary.encoder.float_parts == encoder(slim).float_parts
    assert (summary.encoder.heads, summary.encoder.ffn) == (encoder(slim).heads, encoder(slim).ffn)
    assert largest_difference(path, again) < 1e-5
    result = bqc.compile(path, output=folder / "small.onnx", **options)  # type: ignore[arg-type]
    assert not result.float_parts
    report = verify(result.paths[0], path, bits=True, shape=(4, 24), samples=32)
    assert report.ok, [check.text for check in report.checks if not check.ok]
    return path


@pytest.mark.parametrize(("width", "options"), [(0.25, {"block": 16}), (0.5, {"weight_bits": 4})], ids=str)
def test_a_slim_model_compiles(width: float, options: dict[str, object], tmp_path: Path) -> None:
    model = bert()
    SlimWidth(width)(model)
    compiles(model, tmp_path, **options)
    operators = [node.op_type for node in ir.load(tmp_path / "small.onnx").graph]
    assert (operators.count("BlockAttention"), operators.count("BlockLinearAddNorm")) == (2, 4)
    assert "BlockDequantizeTiles" not in operators


def test_widths_that_fill_no_block(tmp_path: Path) -> None:
    """3 of 6 heads of 10, 32 of 60 neurons."""
    model = bert(hidden=60, heads=6, ffn=60)
    SlimWidth(0.5)(model)
    assert "hidden 60, 3 heads x 10, FFN 32" in str(encoder(model))
    compiles(model, tmp_path, block=16)


def test_verbs_that_look_at_a_slim_model(tmp_path: Path) -> None:
    wide = tmp_path / "wide.onnx"
    ir.save(bert(), wide)
    model = bert()
    SlimWidth(0.5)(model)
    path = compiles(model, tmp_path)
    for file in (path, tmp_path / "small.onnx"):
        shown = inspect(file, batch=1, sequence=8)
        assert (shown["anatomy"]["hidden"], shown["anatomy"]["heads"], shown["anatomy"]["ffn"]) == (64, 2, 48)
        macs = {row["role"]: row["macs"] for row in shown["roles"]}
        assert macs["attention.scores"] == macs["attention.context"] == 2 * 8 * 8 * 32
        assert macs["attention.query"] == 2 * 8 * 64 * 32
        # Behind the last attention the compiled one computes first tokens alone.
        assert macs["attention.output"] == (2 * 8 if file == path else 8 + 1) * 64 * 32
    narrower = {
        f"{change.layer}:{change.role}" for change in diff(wide, path).weights if change.kind == "shape"
    }
    assert {"0:attention.query", "1:attention.output", "1:ffn.output"} <= narrower
    drift = diff(wide, path, run=InputChoice()).drift
    assert drift is not None
    drift = diff(path, tmp_path / "small.onnx", run=InputChoice()).drift
    assert drift is not None

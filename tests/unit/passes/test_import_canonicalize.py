"""Whatever torch wrote, import gives the canonical form, and it computes the same."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bqc.ir import Explanation, import_model, load
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, SOURCE_KEY, nodes_of, role, weights_of
from bqc.ir.importing import ImportSummary
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import EXPORTS, SLOW_EXPORTS, Export, largest_difference

LAYER = [
    ("attention.query", ["MatMul", "Add", "Reshape", "Transpose"]),
    ("attention.key", ["MatMul", "Add", "Reshape", "Transpose"]),
    ("attention.value", ["MatMul", "Add", "Reshape", "Transpose"]),
    ("attention.scores", ["MatMul", "Mul", "Add"]),
    ("attention.softmax", ["Softmax"]),
    ("attention.context", ["MatMul", "Transpose", "Reshape"]),
    ("attention.output", ["MatMul", "Add"]),
    ("attention.norm", ["Add", "LayerNormalization"]),
    ("ffn.intermediate", ["MatMul", "Add"]),
    ("ffn.gelu", ["Gelu"]),
    ("ffn.output", ["MatMul", "Add"]),
    ("ffn.norm", ["Add", "LayerNormalization"]),
]


ALL = [*EXPORTS, *(pytest.param(how, marks=pytest.mark.slow) for how in SLOW_EXPORTS)]


@pytest.fixture(params=ALL, ids=str)
def imported(request: pytest.FixtureRequest) -> tuple[Export, ir.Model, ImportSummary]:
    model, summary = import_model(request.param.path)
    return request.param, model, summary


def test_canonical_form(imported: tuple[Export, ir.Model, ImportSummary]) -> None:
    how, model, summary = imported
    found = summary.encoder
    assert (found.layers, found.attentions, found.norms, found.gelus) == (2, 2, 5, 2)
    assert (found.hidden, found.heads, found.head_dim) == (how.hidden, how.heads, how.hidden // how.heads)
    assert (found.ffn, found.vocab, found.positions, found.types) == (2 * how.hidden, 120, 64, 2)
    assert found.gelu == ("tanh" if how.act == "gelu_new" else "none")
    assert found.mask
    assert (found.pooler, found.head) == (
        how.head in ("classification", "model"),
        2 * (how.head == "classification"),
    )
    assert (model.graph.opset_imports[""], model.ir_version) == (21, 10)
    for layer in ("0", "1"):
        for name, ops in LAYER:
            assert [n.op_type for n in nodes_of(model, layer, name)] == ops
    for node in nodes_of(model):
        if role(node) in ("attention.query", "ffn.output", "pooler") and node.op_type == "Add":
            product, bias = node.inputs
            assert product is not None
            assert bias is not None
            assert product.producer().op_type == "MatMul"  # type: ignore[union-attr]
            assert bias.is_initializer()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert largest_difference(how.path, model) < 1e-5

    source = load(how.path).graph
    for ours, theirs in ((model.graph.inputs, source.inputs), (model.graph.outputs, source.outputs)):
        assert [(v.name, v.type) for v in ours] == [(v.name, v.type) for v in theirs]
    assert all(v.uses() for v in model.graph.initializers.values())
    assert not summary.misses


def test_every_weight_is_labelled_and_lineage_recorded(
    imported: tuple[Export, ir.Model, ImportSummary],
) -> None:
    _, model, _ = imported
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.size > 64:
            assert LAYER_KEY in value.metadata_props
            assert ROLE_KEY in value.metadata_props
    softmax = next(nodes_of(model, "1", "attention.softmax"))
    assert "oftmax" in softmax.metadata_props[SOURCE_KEY]
    assert len(softmax.metadata_props[SOURCE_KEY]) <= 400
    query = list(weights_of(model, "0", "attention.query"))
    assert sorted(len(w.shape or ()) for w in query) == [1, 2]


def test_importing_the_canonical_form_changes_nothing() -> None:
    for options in ({}, {"head": "none", "mask": False, "token_types": False, "gelu": "tanh"}):
        before = canonical_bert(**options)  # type: ignore[arg-type]
        after, _ = import_model(canonical_bert(**options))  # type: ignore[arg-type]
        assert sorted(n.op_type for n in after.graph) == sorted(n.op_type for n in before.graph)
        assert largest_difference(before, after) == 0


def test_initializer_names_and_metadata_survive() -> None:
    path = Export("torchscript", 13, hidden=52, heads=2).path
    model = load(path)
    model.metadata_props["owner"] = "me"
    imported, _ = import_model(model)
    assert imported.metadata_props["owner"] == "me"
    assert "bert.bert.embeddings.word_embeddings.weight" in imported.graph.initializers
    assert "bert.classifier.weight" in imported.graph.initializers


def test_position_and_type_ids_are_computed_where_they_are_no_inputs() -> None:
    model, _ = import_model(Export("dynamo", 21, head="pooled", inputs=("input_ids", "attention_mask")).path)
    assert [n.op_type for n in nodes_of(model, "embedding", "embedding.type")] == [
        "Shape",
        "Expand",
        "Gather",
    ]
    ops = [n.op_type for n in nodes_of(model, "embedding", "embedding.position")]
    assert ops == ["Shape", "Squeeze", "Range", "Unsqueeze", "Gather"]


def test_half_precision_storage_is_read_lazily() -> None:
    model = canonical_bert(hidden=48)
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype != ir.DataType.FLOAT or tensor.size < 2:
            continue
        half = ir.Value(
            name=f"{value.name}.fp16",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.tensor(tensor.numpy().astype(np.float16)),
        )
        graph.register_initializer(half)
        cast = ir.node("Cast", [half], attributes={"to": int(ir.DataType.FLOAT)})
        value.replace_all_uses_with(cast.outputs[0])
        graph.insert_before(graph[0], cast)
        del graph.initializers[value.name or ""]
    stored = ir.from_proto(ir.to_proto(model))
    imported, summary = import_model(stored)
    assert summary.encoder.layers == 2
    assert not any(n.op_type == "Cast" and role(n) != "attention.mask" for n in imported.graph)
    assert largest_difference(model, imported) < 1e-6


def test_large_models_import_quickly() -> None:
    model = canonical_bert(layers=12, hidden=96, heads=12, ffn=384, vocab=3000)
    started = time.perf_counter()
    import_model(model)
    assert time.perf_counter() - started < 3


def test_explanation_is_filled_also_on_failure() -> None:
    explanation = Explanation()
    model = canonical_bert(layers=1)
    softmax = next(n for n in model.graph if n.op_type == "Softmax")
    softmax.attributes["axis"] = ir.AttrInt64("axis", 1)
    with pytest.raises(Exception, match="only part of the encoder is recognised: 0 complete layers"):
        import_model(model, explain=explanation)
    assert any(miss.rule == "attention" for miss in explanation.misses)

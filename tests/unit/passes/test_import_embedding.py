"""An index is what it seems for every id and every position, or the embedding stays as it was written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from bqc.ir import import_model
from bqc.ir.anatomy import ROLE_KEY, nodes_of
from bqc.ir.build import Writer
from bqc.ir.inputs import INPUTS_KEY, InputSpecs
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import largest_difference, session
from tests.support.families import Cell, exported

I64 = ir.DataType.INT64
BOOL = ir.DataType.BOOL

Index = Callable[[Writer, ir.Value], ir.Value]


def unknown_word(w: Writer, ids: ir.Value) -> ir.Value:
    missing = w.op("Equal", ids, w.const("missing", np.int64(97)), dtype=BOOL)
    return w.op("Where", missing, w.const("unknown", np.int64(1)), ids, dtype=I64)


def counted_types(w: Writer, ids: ir.Value) -> ir.Value:
    ends = w.op("Equal", ids, w.const("separator", np.int64(97)), dtype=BOOL)
    counted = w.op(
        "CumSum", w.op("Cast", ends, dtype=I64, to=int(I64)), w.const("axis", np.int64(1)), dtype=I64
    )
    return w.op("Min", counted, w.const("last_type", np.int64(1)), dtype=I64)


def last_position(last: int) -> Index:
    return lambda w, index: w.op("Min", index, w.const("last", np.int64(last)), dtype=I64)


def clipped(w: Writer, ids: ir.Value) -> ir.Value:
    return w.op("Clip", ids, w.const("low", np.int64(0)), w.const("high", np.int64(99)), dtype=I64)


def indexed(role: str, index: Index) -> ir.Model:
    """An unlabelled encoder, one lookup of which goes through `index`."""
    model = canonical_bert(layers=1, token_types=False)
    node = next(n for n in nodes_of(model, role=role) if n.op_type == "Gather")
    w = Writer(model.graph)
    old = model.graph.inputs[0] if role == "embedding.type" else node.inputs[1]
    assert old is not None
    made = index(w, old)
    model.graph.insert_before(node, w.nodes)
    node.replace_input_with(1, made)
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    return ir.from_proto(ir.to_proto(model))


@pytest.mark.parametrize(
    ("role", "index", "whole"),
    [
        ("embedding.word", unknown_word, False),
        ("embedding.type", counted_types, False),
        ("embedding.position", last_position(20), False),
        ("embedding.word", clipped, True),
        ("embedding.position", last_position(63), True),
    ],
)
def test_every_id_and_position(role: str, index: Index, whole: bool) -> None:
    source = indexed(role, index)
    model, summary = import_model(indexed(role, index))
    assert whole != any("for some ids or positions only" in str(miss) for miss in summary.misses)
    ids = np.arange(100).reshape(2, 50)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    wanted, found = session(source).run(None, feeds)[0], session(model).run(None, feeds)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_types_that_positions_look_up() -> None:
    """As transformers writes RoBERTa with positions as an input: a row of zeros as long as the position table."""
    model = canonical_bert(layers=1, token_types=False)
    places = ir.Value(name="position_ids", type=ir.TensorType(I64), shape=ir.Shape(["batch", "sequence"]))
    model.graph.inputs.append(places)
    lookups = {role: n for n in model.graph if n.op_type == "Gather" and (role := n.metadata_props[ROLE_KEY])}
    w = Writer(model.graph)
    sizes = w.op("Shape", places, dtype=I64)
    rows = w.op("Slice", sizes, *(w.const(f"n{i}", np.array([i], np.int64)) for i in (0, 1)), dtype=I64)
    wide = w.op("Concat", rows, w.const("all", np.array([64], np.int64)), dtype=I64, axis=0)
    zeros = w.op("Expand", w.const("zeros", np.zeros((1, 64), np.int64)), wide, dtype=I64)
    kinds = w.op("GatherElements", zeros, places, dtype=I64, axis=1)
    model.graph.insert_before(lookups["embedding.word"], w.nodes)
    lookups["embedding.type"].replace_input_with(1, kinds)
    lookups["embedding.position"].replace_input_with(1, places)
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    imported, summary = import_model(ir.from_proto(ir.to_proto(model)))
    assert summary.encoder.float_parts == ()
    assert not any(node.op_type == "GatherElements" for node in imported.graph)


def test_an_embedding_that_is_not_recognised_stays_float() -> None:
    """What reads its shape goes on: it is that of the lookups it is a sum of."""
    path = exported("torchscript", Cell("bert", "bare"))
    source = ir.load(path)
    word = next(n for n in source.graph if n.op_type == "Gather" and "word" in (n.inputs[0].name or ""))
    w = Writer(source.graph)
    made = w.op("Mod", word.inputs[1], w.const("few", np.int64(50)), dtype=I64)
    source.graph.insert_before(word, w.nodes)
    word.replace_input_with(1, made)
    model, summary = import_model(ir.from_proto(ir.to_proto(source)))
    assert [miss.rule for miss in summary.misses] == ["embedding"]
    assert summary.encoder.attentions == 2
    assert InputSpecs.of_json(model.metadata_props[INPUTS_KEY]).inputs["input_ids"].rows == 120
    assert largest_difference(source, model) < 1e-5

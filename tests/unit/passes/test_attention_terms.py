"""Attention that sees a window, a segment or hides certain ids is no attention with a padding mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer
from bqc.ir.synthetic import canonical_bert

I64 = ir.DataType.INT64
BOOL = ir.DataType.BOOL


def _input(model: ir.Model, name: str) -> ir.Value:
    return next(v for v in model.graph.inputs if v.name == name)


def window(w: Writer, model: ir.Model, reach: int = 20) -> ir.Value:
    steps = next(n for n in nodes_of(model, role="embedding.position") if n.op_type == "Range").outputs[0]
    row = w.op("Unsqueeze", steps, w.const("row", np.array([0])), dtype=I64)
    column = w.op("Unsqueeze", steps, w.const("column", np.array([1])), dtype=I64)
    apart = w.op("Abs", w.op("Sub", row, column, dtype=I64), dtype=I64)
    return w.op("Greater", apart, w.const("reach", np.int64(reach)), dtype=BOOL)


def other_segment(w: Writer, model: ir.Model) -> ir.Value:
    types = _input(model, "token_type_ids")
    row = w.op("Unsqueeze", types, w.const("row", np.array([1, 2])), dtype=I64)
    column = w.op("Unsqueeze", types, w.const("column", np.array([1, 3])), dtype=I64)
    return w.op("Not", w.op("Equal", row, column, dtype=BOOL), dtype=BOOL)


def certain_id(w: Writer, model: ir.Model) -> ir.Value:
    row = w.op("Unsqueeze", _input(model, "input_ids"), w.const("row", np.array([1, 2])), dtype=I64)
    return w.op("Equal", row, w.const("certain", np.int64(77)), dtype=BOOL)


def hiding(hidden: Callable[[Writer, ir.Model], ir.Value]) -> ir.Model:
    """An unlabelled encoder whose mask hides that, too."""
    model = canonical_bert(layers=2)
    bias = next(n for n in nodes_of(model, role="attention.mask") if n.op_type == "Mul").outputs[0]
    users = list(bias.uses())
    w = Writer(model.graph)
    low, none = w.const("low", np.float32(-1e9)), w.const("none", np.float32(0))
    total = w.op("Add", bias, w.op("Where", hidden(w, model), low, none))
    model.graph.insert_before(next(n for n in nodes_of(model, layer="0")), w.nodes)
    for user, index in users:
        user.replace_input_with(index, total)
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    return ir.from_proto(ir.to_proto(model))


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        (window, "not the same for every query in 64 tokens"),
        (other_segment, "depend on 'attention_mask' and 'token_type_ids'"),
        (certain_id, "depend on the ids"),
    ],
)
def test_what_is_more_than_a_padding_mask_is_refused(
    hidden: Callable[[Writer, ir.Model], ir.Value], reason: str
) -> None:
    with pytest.raises(BqcError, match=reason):
        import_model(hiding(hidden))


def test_a_window_that_holds_every_position_is_plain() -> None:
    _, summary = import_model(hiding(lambda w, model: window(w, model, 64)))
    assert summary.encoder.layers == 2
    assert not summary.encoder.float_parts

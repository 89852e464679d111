"""What looks like attention and is not, is refused with the predicate that failed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer
from bqc.ir.notes import notes
from bqc.ir.synthetic import canonical_bert
from bqc.passes.import_attention import EMPTY_ROWS
from tests.support.exports import largest_difference


def node(model: ir.Model, op_type: str, role: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == op_type and n.metadata_props.get("bqc.role") == role)


def unlabelled(model: ir.Model) -> ir.Model:
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    return model


def bias_added(model: ir.Model) -> None:
    softmax = node(model, "Softmax", "attention.softmax")
    w = Writer(model.graph)
    extra = w.op(
        "Add", softmax.inputs[0], w.const("relative", np.float32(np.arange(2)[None, :, None, None] - 0.5))
    )
    model.graph.insert_before(softmax, w.nodes)
    softmax.replace_input_with(0, extra)


def causal(model: ir.Model) -> None:
    mask = node(model, "Sub", "attention.mask")
    w = Writer(model.graph)
    clipped = w.op("Mul", mask.outputs[0], w.const("zero", np.float32(0)))
    model.graph.insert_after(mask, w.nodes)
    node(model, "Mul", "attention.mask").replace_input_with(0, clipped)


def softened(model: ir.Model) -> None:
    node(model, "Mul", "attention.mask").inputs[1].const_value = ir.tensor(np.float32(-3))  # type: ignore[union-attr]


def squared(model: ir.Model) -> None:
    scores = node(model, "Mul", "attention.scores")
    scores.replace_input_with(1, scores.inputs[0])


def doubled(model: ir.Model) -> None:
    softmax = node(model, "Softmax", "attention.softmax")
    context = node(model, "MatMul", "attention.context")
    w = Writer(model.graph)
    twice = w.op("Mul", softmax.outputs[0], w.const("twice", np.float32(2)))
    model.graph.insert_after(softmax, w.nodes)
    context.replace_input_with(0, twice)


def wrong_axis(model: ir.Model) -> None:
    node(model, "Softmax", "attention.softmax").attributes["axis"] = ir.AttrInt64("axis", 2)


@pytest.mark.parametrize(
    ("change", "predicate"),
    [
        (bias_added, "not a multiple of query times key"),
        (softened, "keys with mask 0 are not hidden"),
        (squared, "not a multiple of query times key"),
        (doubled, "not softmax.scores. times values"),
        (wrong_axis, "not softmax.scores. times values"),
    ],
)
def test_near_misses_are_errors(change: Callable[[ir.Model], None], predicate: str) -> None:
    model = canonical_bert(layers=1)
    change(model)
    with pytest.raises(
        BqcError, match=f"only part of the encoder.*{predicate}.*nearest miss: attention at Softmax"
    ):
        import_model(unlabelled(model))


def cut(model: ir.Model) -> None:
    """Masks of 16 tokens at most; the hidden states stay as long as the text."""
    mask = node(model, "Sub", "attention.mask")
    w = Writer(model.graph)
    ends = (np.array([n], np.int64) for n in (0, 16, 3))
    short = w.op("Slice", mask.outputs[0], *(w.const(f"end_{i}", end) for i, end in enumerate(ends)))
    model.graph.insert_after(mask, w.nodes)
    mask.outputs[0].replace_all_uses_with(short)
    short.producer().replace_input_with(0, mask.outputs[0])  # type: ignore[union-attr]


def test_a_text_that_the_graph_cuts_off_is_refused() -> None:
    model = canonical_bert(layers=1)
    cut(model)
    text = r"has 16 tokens where the text has \d+: the graph cuts it off; export the model without that"
    with pytest.raises(BqcError, match=text):
        import_model(unlabelled(model))


def test_lengths_are_no_mask() -> None:
    model = canonical_bert(layers=1)
    mask = next(v for v in model.graph.inputs if v.name == "attention_mask")
    mask.shape = ir.Shape(["batch", 1])
    with pytest.raises(BqcError, match=r"reads input 'attention_mask' \['batch', 1\], which is no mask"):
        import_model(unlabelled(model))


def test_a_guard_of_texts_without_tokens_is_told() -> None:
    model = canonical_bert(layers=1)
    imported, _ = import_model(unlabelled(model))
    assert EMPTY_ROWS not in notes(imported)
    model = canonical_bert(layers=1)
    softmax = node(model, "Softmax", "attention.softmax")
    w = Writer(model.graph)
    hidden = w.op("Less", softmax.inputs[0], w.const("low", np.float32(-1e4)), dtype=ir.DataType.BOOL)
    shown = w.op("Where", hidden, w.const("none", np.float32(0)), softmax.outputs[0])
    model.graph.insert_after(softmax, w.nodes)
    node(model, "MatMul", "attention.context").replace_input_with(0, shown)
    imported, _ = import_model(unlabelled(model))
    assert EMPTY_ROWS in notes(imported)


def test_a_mask_that_hides_nothing_is_no_mask() -> None:
    model = canonical_bert()
    causal(model)
    imported, summary = import_model(unlabelled(model))
    assert not summary.encoder.mask
    assert "attention_mask" in [v.name for v in imported.graph.inputs]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_without_labels_the_canonical_form_is_found_again(heads: int) -> None:
    model = canonical_bert(hidden=40, heads=heads, gelu="tanh")
    imported, summary = import_model(unlabelled(canonical_bert(hidden=40, heads=heads, gelu="tanh")))
    assert (summary.encoder.heads, summary.encoder.head_dim) == (heads, 40 // heads)
    assert largest_difference(model, imported) == 0


def test_a_scale_on_the_query_is_found() -> None:
    model = canonical_bert()
    for turned in [n for n in model.graph if n.metadata_props.get("bqc.role") == "attention.query"]:
        if turned.op_type == "Transpose":
            w = Writer(model.graph)
            halved = w.op("Mul", w.const("half", np.float32(0.5)), turned.outputs[0])
            model.graph.insert_after(turned, w.nodes)
            turned.outputs[0].replace_all_uses_with(halved)
            halved.producer().replace_input_with(1, turned.outputs[0])  # type: ignore[union-attr]
    before = ir.from_proto(ir.to_proto(model))
    imported, _ = import_model(unlabelled(model))
    (scale,) = {n.inputs[1] for n in nodes_of(imported, None, "attention.scores") if n.op_type == "Mul"}
    assert scale is not None
    np.testing.assert_allclose(scale.const_value.numpy(), 0.5 * 16**-0.5, rtol=1e-5)  # type: ignore[union-attr]
    assert largest_difference(before, imported) < 1e-6


def test_labels_are_not_trusted() -> None:
    """Importing again looks at the computation, whatever the metadata says."""
    model = canonical_bert()
    softened(model)
    with pytest.raises(BqcError, match="keys with mask 0 are not hidden"):
        import_model(model)

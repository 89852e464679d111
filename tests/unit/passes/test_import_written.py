"""Encoders with one thing written in another way are the same encoders; near misses are not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer
from bqc.ir.synthetic import canonical_bert
from tests.support.exporters_written import WAYS, Change, heads_merged_backwards, mask, unlabelled
from tests.support.exports import largest_difference

BOOL = ir.DataType.BOOL


def changed(change: Change, **settings: object) -> ir.Model:
    model = canonical_bert(layers=2, hidden=32, **settings)  # type: ignore[arg-type]
    change(model)
    return unlabelled(model)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_encoder(way: str) -> None:
    source = changed(WAYS[way])
    model, summary = import_model(unlabelled(source))
    assert summary.encoder.float_parts == ()
    assert summary.encoder.mask
    assert largest_difference(source, model, padding="both-sides" not in way) < 1e-5


def test_both_sides_need_one_mask_in_all_layers() -> None:
    def one_layer(model: ir.Model) -> None:
        before = next(n for n in nodes_of(model, "0", "attention.scores") if n.op_type == "Add").inputs[1]
        WAYS["mask-of-both-sides"](model)
        add = next(n for n in nodes_of(model, "0", "attention.scores") if n.op_type == "Add")
        w = Writer(model.graph)
        other = w.op("Mul", before, w.const("half", np.float32(0.01)))
        model.graph.insert_before(add, w.nodes)
        add.replace_input_with(1, other)
        ids = w.op("Not", w.op("Cast", model.graph.inputs[0], dtype=BOOL, to=int(BOOL)), dtype=BOOL)
        wide = w.op("Unsqueeze", ids, w.const("wide", np.array([1, 2])), dtype=BOOL)
        low = w.op("Where", wide, w.const("very", np.float32(-1e9)), w.const("not_at_all", np.float32(0)))
        add.replace_input_with(1, low)
        model.graph.insert_before(add, w.nodes[1:])

    with pytest.raises(BqcError, match="one mask \\[batch, sequence\\] of keys"):
        import_model(changed(one_layer))


def test_both_sides_need_what_reads_no_padding() -> None:
    def pooled(model: ir.Model) -> None:
        WAYS["mask-of-both-sides"](model)
        out = next(nodes_of(model, "1", "ffn.norm")).outputs[0]
        w = Writer(model.graph)
        mean = w.op("ReduceMean", out, w.const("tokens", np.array([1])), keepdims=0, shape=["batch", 32])
        model.graph.extend(w.nodes)
        mean.name = "sentence"
        model.graph.outputs.append(mean)

    with pytest.raises(BqcError, match="may pool padded tokens too"):
        import_model(changed(pooled))


def _either_shows(w: Writer, model: ir.Model) -> ir.Value:
    """A key is hidden if its id is 0 and its mask is 0."""
    ids, given = (next(v for v in model.graph.inputs if v.name == n) for n in ("input_ids", "attention_mask"))
    no = w.const("no", np.int64(0))
    both = w.op("And", w.op("Equal", ids, no, dtype=BOOL), w.op("Equal", given, no, dtype=BOOL), dtype=BOOL)
    wide = w.op("Unsqueeze", both, w.const("wide", np.array([1, 2])), dtype=BOOL)
    return w.op("Where", wide, w.const("low", np.float32(-1e9)), w.const("none", np.float32(0)))


def _causal(w: Writer, model: ir.Model) -> ir.Value:
    given = next(v for v in model.graph.inputs if v.name == "attention_mask")
    m = w.op("Unsqueeze", w.op("Cast", given, to=1), w.const("rows", np.array([1, 2])))
    square = w.op("Mul", m, w.op("Transpose", m, perm=[0, 1, 3, 2]))
    seen = w.op("Trilu", square, upper=0)
    return w.op("Mul", w.op("Sub", w.const("one", np.float32(1)), seen), w.const("low", np.float32(-1e9)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_either_shows, "keys with mask 0 are not hidden"), (_causal, "the causal attention of a decoder")],
)
def test_other_masks_are_refused(make: object, reason: str) -> None:
    with pytest.raises(BqcError, match=reason):
        import_model(changed(mask(make)))  # type: ignore[arg-type]


def test_heads_merged_in_another_order_are_no_attention() -> None:
    with pytest.raises(BqcError, match="not a multiple of query times key"):
        import_model(changed(heads_merged_backwards))

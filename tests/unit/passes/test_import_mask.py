"""Masks of 2, 3 and 4 axes, additive or of 0 and 1; explicit positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import batches, session
from tests.support.masks import KINDS, with_mask


@pytest.mark.parametrize(
    ("rank", "kind", "additive"),
    [
        *((rank, kind, False) for rank in (3, 4) for kind in KINDS),
        (2, "int32", False),
        (2, "bool", False),
        *((rank, "float", True) for rank in (2, 3, 4)),
    ],
)
def test_key_padding_masks(
    rank: int, kind: str, additive: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain, odd = canonical_bert(), with_mask(rank, kind, additive)
    model, summary = import_model(ir.from_proto(ir.to_proto(odd)))
    assert summary.encoder.mask
    assert bool(summary.notes) == (additive or kind == "float16")
    ops = ["Cast", "Unsqueeze", "Sub", "Mul"]
    assert [n.op_type for n in nodes_of(model, role="attention.mask")] == ops
    path = tmp_path_factory.mktemp("mask") / "out.onnx"
    bqc.compile(ir.from_proto(ir.to_proto(odd)), output=path)
    theirs, source, ours, compiled = session(plain), session(odd), session(model), bqc.session(path)
    for feeds in batches({"input_ids", "attention_mask", "token_type_ids"}):
        wanted = theirs.run(None, feeds)[0]
        mask = feeds["attention_mask"]
        mask = (1 - mask) * -1e4 if additive else mask
        mask = mask.reshape(mask.shape[0], *[1] * (rank - 2), mask.shape[1])
        feeds["attention_mask"] = mask.astype(KINDS[kind].numpy())
        for one in (source, ours):
            np.testing.assert_allclose(one.run(None, feeds)[0], wanted, atol=1e-5)
        assert np.isfinite(compiled.run(None, feeds)[0]).all()


@pytest.mark.parametrize("additive", [False, True])
def test_masks_per_query_are_refused_by_name(additive: bool) -> None:
    model = with_mask(4, "float", additive, ["batch", 1, "sequence", "sequence"])
    with pytest.raises(BqcError, match=r"'attention_mask' .* masks every query on its own"):
        import_model(model)


def test_a_mask_that_is_scaled_is_refused() -> None:
    model = with_mask(4, "float", True)
    mask = model.graph.inputs[-1]
    w = Writer(model.graph)
    soft = w.op("Mul", mask, w.const("soft", np.float32(0.5)))
    mask.replace_all_uses_with(soft)
    w.nodes[0].replace_input_with(0, mask)
    model.graph.insert_before(model.graph[0], w.nodes)
    with pytest.raises(BqcError, match="attention at Softmax"):
        import_model(model)


def test_explicit_positions() -> None:
    model = canonical_bert(token_types=False)
    place = ir.Value(
        name="position_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "sequence"])
    )
    model.graph.inputs.insert(0, place)
    gather = next(n for n in nodes_of(model, role="embedding.position") if n.op_type == "Gather")
    gather.replace_input_with(1, place)
    imported, summary = import_model(ir.from_proto(ir.to_proto(model)))
    assert summary.encoder.layers == 2
    one, other = session(model), session(imported)
    for feeds in batches({"input_ids", "attention_mask"}):
        ids = feeds["input_ids"]
        feeds["position_ids"] = np.broadcast_to(np.arange(ids.shape[1])[::-1], ids.shape).copy()
        np.testing.assert_allclose(one.run(None, feeds)[0], other.run(None, feeds)[0], atol=1e-6)

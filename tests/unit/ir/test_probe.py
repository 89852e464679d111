"""Probes run index computations and refuse to touch weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bqc.ir.probe import Probe, ProbeError, Sizes, shape_of
from bqc.ir.synthetic import canonical_bert


def value(model: ir.Model, op_type: str, role: str) -> ir.Value:
    return next(
        n.outputs[0] for n in model.graph if n.op_type == op_type and n.metadata_props.get("bqc.role") == role
    )


def test_positions_and_mask() -> None:
    model = canonical_bert()
    positions, mask = value(model, "Unsqueeze", "embedding.position"), value(model, "Mul", "attention.mask")
    probe = Probe([positions, mask])
    given = {v.name: v for v in model.graph.inputs}
    assert probe.depends_on(given["attention_mask"])
    assert not probe.depends_on(given["token_type_ids"])
    feeds = {given["attention_mask"]: np.array([[1, 1, 0], [1, 0, 0]])}
    found, bias = probe.run(feeds, Sizes(2, 3))
    np.testing.assert_array_equal(found, [[0, 1, 2]])
    np.testing.assert_array_equal(bias[:, 0, 0] < 0, [[False, False, True], [False, True, True]])


def test_weights_are_out_of_bounds() -> None:
    model = canonical_bert(vocab=1000)
    with pytest.raises(ProbeError, match=r"depends on the weight 'embeddings\.word'"):
        Probe([value(model, "Add", "embedding.sum")])


def test_shapes_through_many_layers() -> None:
    model = canonical_bert(layers=20, hidden=24, heads=2, ffn=24, vocab=20, positions=8)
    last = [n for n in model.graph if n.op_type == "LayerNormalization"][-1]
    assert shape_of(last.outputs[0], Sizes(3, 5)) == (3, 5, 24)
    scores = value(model, "Softmax", "attention.softmax")
    assert shape_of(scores, Sizes(3, 5)) == (3, 2, 5, 5)

"""Layers may have different masks: optimizers turn the mask of some layers into lengths and leave others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

import bqc
from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer, write_mask
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import session


def test_every_layer_keeps_its_own(tmp_path: Path) -> None:
    model = canonical_bert(layers=2, hidden=32, head="none")
    ids = model.graph.inputs[0]
    other = ir.Value(name="other_mask", type=ids.type, shape=ids.shape)
    model.graph.inputs.append(other)
    w = Writer(model.graph)
    bias = write_mask(w, other)
    model.graph.insert_before(model.graph[0], w.nodes)
    (add,) = (n for n in list(nodes_of(model, "1", "attention.scores")) if n.op_type == "Add")
    add.replace_input_with(1, bias)
    reference = session(model)
    rng = np.random.default_rng(0)
    feeds = {
        "input_ids": rng.integers(0, 100, (4, 8)),
        "attention_mask": np.array([[1, 1] + [0] * 6] * 4),
        "token_type_ids": np.zeros((4, 8), np.int64),
        "other_mask": np.array([[0] * 6 + [1, 1]] * 4),
    }
    (wanted,) = reference.run(None, feeds)
    result = bqc.compile(model, output=tmp_path / "small.onnx", block=16)
    (found,) = bqc.session(result.paths[0]).run(None, feeds)
    cosine = (found * wanted).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(wanted, axis=-1)
    assert cosine.min() > 0.999

"""Float operators above the gather of first tokens, as metrics of gradients have them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from bqc.ir.synthetic import canonical_bert
from bqc.passes.hoist_gather import hoist


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def test_the_last_layer_behind_its_attention() -> None:
    model = canonical_bert()
    ids = np.asarray([[2, 7, 9, 3], [2, 5, 3, 0]])
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": ids * 0}
    before = outputs(model, feeds)
    assert hoist(model, {""}) == 11  # three linears with biases, GELU, two residuals, two norms
    assert outputs(model, feeds) == pytest.approx(before, abs=1e-6)
    assert hoist(model, {""}) == 0


def test_not_above_what_every_token_is_read_of() -> None:
    assert hoist(canonical_bert(head="none"), {""}) == 0


def test_not_above_values_of_unknown_or_broadcast_shape() -> None:
    for shape in (None, ir.Shape(["batch", 1, 32])):
        model = canonical_bert()
        gather = next(
            node for node in model.graph if node.op_type == "Gather" and node.attributes["axis"].value == 1
        )
        value = gather.inputs[0]
        assert value is not None
        value.shape = shape
        assert hoist(model, {""}) == 0

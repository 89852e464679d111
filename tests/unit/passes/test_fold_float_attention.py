"""Attention that stays float as one operator: the numbers of the graph before, and what becomes of masks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.formats import Half
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import key_of
from bqc.passes._weights import weight_uses
from bqc.passes.attach_functions import AttachFunctions
from bqc.passes.fold_float_attention import FoldFloatAttention
from bqc.plan import Plan
from bqc.runtime.session import session
from tests.support.running import first_output

TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}


def feeds(model: ir.Model) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mask = np.ones((4, 9), np.int64)
    mask[0, 4:] = 0
    mask[1, :3] = 0
    mask[2] = 0
    known = {
        "input_ids": rng.integers(0, 100, (4, 9)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (4, 9)),
    }
    return {
        value.name: known[value.name].astype(value.dtype.numpy())
        for value in model.graph.inputs
        if value.name and value.dtype
    }


def folded(model: ir.Model) -> Counter[str]:
    """Operators of the model after the pass."""
    FoldFloatAttention()(model)
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("mask", [True, False])
def test_numbers_stay(mask: bool) -> None:
    model = canonical_bert(**TINY, mask=mask)
    given = feeds(model)
    before = first_output(model, given)
    ops = folded(model)
    assert ops["FloatAttention"] == 2
    assert not ops["Softmax"]
    assert ops["Expand"] == (not mask)  # the mask of ones, made once
    AttachFunctions()(model)
    np.testing.assert_allclose(first_output(model, given, kernels=True), before, rtol=0, atol=2e-6)


def test_a_mask_of_other_integers_is_converted_once() -> None:
    model = canonical_bert(**TINY)
    mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
    mask.type = ir.TensorType(ir.DataType.INT32)
    assert folded(model)["Cast"] == 1
    assert len({node.inputs[3] for node in model.graph if node.op_type == "FloatAttention"}) == 1


def test_probabilities_that_are_outputs_stay() -> None:
    model = canonical_bert(**TINY)
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    model.graph.outputs.append(softmax.outputs[0])
    ops = folded(model)
    assert (ops["FloatAttention"], ops["Softmax"]) == (1, 1)


@pytest.mark.parametrize(("mask", "unpad"), [(True, False), (True, True), (False, False)])
def test_compiled(mask: bool, unpad: bool, tmp_path: Path) -> None:
    """The same bits at one and two threads, and without the library."""
    model = canonical_bert(**TINY, mask=mask)
    plan = Plan("bbct", {key_of(node): Half() for node, _, _ in weight_uses(model)})
    given = feeds(model)
    result = bqc.compile(model, output=tmp_path / "a.onnx", recipe=plan, unpad=unpad)
    path = result.paths[0]
    assert result.operators["RaggedFloatAttention" if unpad else "FloatAttention"] == 2
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)[0]
    for threads in (1, 2):
        fast = session(path, strict=True, threads=threads).run(None, given)[0]
        assert np.asarray(fast).tobytes() == np.asarray(plain).tobytes()

"""Ternary weight splitting leaves a whole model as it was: in float64, where nothing but a wrong formula is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from bqc.ir.synthetic import canonical_bert  # noqa: E402
from bqc.passes.split_ternary import SplitTernary  # noqa: E402
from bqc.plan import Plan  # noqa: E402
from bqc.schemes.binarybert import Binarybert  # noqa: E402
from bqc.train.module import module  # noqa: E402


def skewed_model() -> ir.Model:
    """In float64, its weights and tables with means that are not 0, which the formula as printed does not survive."""
    model = canonical_bert(layers=2, hidden=48, heads=2, ffn=72)
    rng = np.random.default_rng(1)
    for value in model.graph.initializers.values():
        if value.dtype != ir.DataType.FLOAT or not value.shape:
            continue
        data = value.const_value.numpy().astype(np.float64)
        if data.ndim == 2:
            data += np.abs(data).mean() * rng.random((1, data.shape[1])) + 0.03 * rng.random(data.shape)
        value.const_value, value.dtype = ir.Tensor(data, name=value.name), ir.DataType.DOUBLE
    return model


def logits(model: ir.Model, scheme: Binarybert | None, weights: dict[str, Any]) -> np.ndarray:
    """Of the graph in float64, with these formats of its weights and, with a scheme, its quantised activations."""
    rng = np.random.default_rng(0)
    feeds = {"input_ids": rng.integers(0, 100, (3, 11)), "token_type_ids": rng.integers(0, 2, (3, 11))}
    feeds["attention_mask"] = np.arange(11) < np.array([[11], [7], [4]])
    graph = model.clone()
    for one in scheme.simulate() if scheme else ():
        one(graph)
    ready = module(graph, weights=weights).double().eval()
    with torch.no_grad():
        found = ready(**{name: torch.from_numpy(feeds[name].astype(np.int64)) for name in ready.input_names})
    result = found["logits"].numpy()
    assert result.dtype == np.float64
    return result


@pytest.mark.parametrize("table_scales", ["fp32", "fp16"])
@pytest.mark.parametrize("quantised", [False, True])
def test_logits_before_and_after(quantised: bool, table_scales: str) -> None:
    model, scheme = skewed_model(), Binarybert(table_scales=table_scales)
    for one in scheme.plan():
        one(model)
    simulated = scheme if quantised else None
    ternary = logits(model, simulated, Plan.of(model).weights)
    latent = logits(model, None, {})
    before = Plan.of(model).weights
    SplitTernary()(model)
    after = Plan.of(model).weights
    assert str(before["embedding:embedding.word"]).startswith("Ternary(row")
    assert str(after["embedding:embedding.word"]).startswith("Binary(row")
    for name, mine, wanted in (
        ("binary", logits(model, simulated, after), ternary),
        ("latent", logits(model, None, {}), latent),
    ):
        assert np.abs(mine - wanted).max() < 1e-12 * np.abs(wanted).max(), name
    assert np.abs(ternary - latent).max() > 0.01 * np.abs(latent).max()  # the weights are ternary

"""The embedded model's accuracy on the real task."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bqc.evaluate import evaluate

ROOT = Path(__file__).parents[3]


@pytest.mark.accuracy
def test_sst2_of_the_embedded_model() -> None:
    model = ROOT / "models" / "minilm-l6-sst2" / "model.onnx"
    data = Path(os.environ.get("BQC_DATA", ROOT.parent / "shared" / "data"))
    if not model.is_file():
        pytest.skip("the embedded model is not in this checkout")
    if not data.is_dir():
        pytest.skip("no task data: set BQC_DATA")
    result = evaluate(model, "sst2", data, threads=1)
    assert result.examples == 872
    assert result.labels_checked
    assert result.metrics["accuracy"] == pytest.approx(0.897, abs=0.0015)

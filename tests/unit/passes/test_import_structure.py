"""Two exports of one model by different exporters import to the same graph, names aside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bqc.ir import import_model
from bqc.ir.structure import difference
from tests.support.exporters_ort import EXPORTERS, raw_mask
from tests.support.exports import Export

BASE = Export("torchscript", 14)
OTHERS = (
    Export("torchscript", 11),
    Export("torchscript", 17, "sdpa"),
    pytest.param(Export("dynamo", 18), marks=pytest.mark.slow),
    pytest.param(Export("dynamo", 21, "sdpa"), marks=pytest.mark.slow),
)


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_torch_exporters_agree(other: Export) -> None:
    one, _ = import_model(BASE.path)
    two, _ = import_model(other.path)
    assert difference(one, two, tolerance=1e-6) is None


@pytest.mark.parametrize("optimizer", ["ort-raw-mask", "ort-session-basic", "ort-session-extended"])
def test_optimizers_agree(optimizer: str, tmp_path: Path) -> None:
    path = Path(shutil.copy(BASE.path, tmp_path / "model.onnx"))
    one, _ = import_model(BASE.path)
    two, _ = import_model(EXPORTERS[optimizer](path))
    assert difference(one, two, tolerance=1e-6) is None


def test_a_mask_of_lengths_is_another_structure(tmp_path: Path) -> None:
    path = Path(shutil.copy(BASE.path, tmp_path / "model.onnx"))
    lengths, _ = import_model(EXPORTERS["ort-optimizer-0"](path))
    whole, _ = import_model(raw_mask(path))
    assert "operators differ" in (difference(whole, lengths) or "")

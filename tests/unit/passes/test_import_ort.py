"""What ONNX Runtime's optimizers write imports to the canonical form of the model they were given."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir import import_model, load
from bqc.ir.anatomy import nodes_of
from bqc.passes.import_attention import EMPTY_ROWS
from tests.support.exporters_ort import EXPORTERS, optimized
from tests.support.exports import Export, batches, largest_difference, session

EAGER = Export("torchscript", 14)
SOURCES = (EAGER, Export("torchscript", 12, act="gelu_new", head="model"), Export("torchscript", 17, "sdpa"))
SLOW = (
    Export("dynamo", 18, "sdpa", act="gelu_new"),
    Export("dynamo", 21, head="pooled", inputs=("input_ids", "attention_mask")),
)


@pytest.mark.parametrize(
    "source", [*SOURCES, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)], ids=str
)
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_same_as_its_source(exporter: str, source: Export, tmp_path: Path) -> None:
    path = EXPORTERS[exporter](Path(shutil.copy(source.path, tmp_path / "model.onnx")))
    model, summary = import_model(path)
    found = summary.encoder
    assert (found.layers, found.norms, found.gelus, found.heads, found.mask) == (2, 5, 2, source.heads, True)
    assert not summary.misses
    assert set(model.graph.opset_imports) == {""}
    assert largest_difference(path, model) < 1e-5
    if not any("lengths" in text for text in summary.notes):
        assert largest_difference(source.path, model) < 1e-5


def test_lengths_as_mask(tmp_path: Path) -> None:
    """A mask of lengths hides what is behind the last token, whatever the 0/1 mask says before it."""
    path = EXPORTERS["ort-optimizer-0"](Path(shutil.copy(EAGER.path, tmp_path / "model.onnx")))
    model, summary = import_model(path)
    assert summary.notes == (
        EMPTY_ROWS,
        "the optimizer that wrote this file made the mask right-padding lengths; kept so",
    )
    assert [n.op_type for n in nodes_of(model, "embedding", "attention.mask")] == [
        "Cast",
        "Unsqueeze",
        "Sub",
        "Mul",
    ]
    plain, ours = session(EAGER.path), session(model)
    for feeds in batches({i.name for i in plain.get_inputs()}):
        feeds["attention_mask"] = -np.sort(-feeds["attention_mask"], axis=1)
        np.testing.assert_allclose(ours.run(None, feeds)[0], plain.run(None, feeds)[0], atol=1e-5)


def test_unidirectional_attention_is_refused_by_name(tmp_path: Path) -> None:
    model = load(optimized(Path(shutil.copy(EAGER.path, tmp_path / "model.onnx"))))
    for node in model.graph:
        if node.op_type == "Attention":
            node.attributes["unidirectional"] = ir.AttrInt64("unidirectional", 1)
    with pytest.raises(BqcError, match=r"contrib-attention at Attention .*unidirectional"):
        import_model(model)

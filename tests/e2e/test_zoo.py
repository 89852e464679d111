"""The compiled models in the repository: the same bits with and without the library, and the card's accuracy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bqc
from bqc.evaluate import evaluate
from bqc.evaluate.tokens import TextEncoder
from bqc.runtime.inputs import EncoderInputs
from bqc.runtime.specs import specs_of

ROOT = Path(__file__).parents[2]
SIGNS = {
    ROOT / "models" / "minilm-l6-sst2-w1a8" / "model.bqc.onnx": 0.8888,
    ROOT / "models" / "minilm-l6-sst2-w1a4" / "model.bqc.onnx": 0.8911,
}
"""Each with its accuracy on SST-2's development set."""
TEXTS = ["a gripping , beautiful film .", "dull and far too long ."]


pytestmark = pytest.mark.skipif(
    not all(path.is_file() for path in SIGNS), reason="the models are not in this checkout"
)


@pytest.mark.parametrize("path", SIGNS, ids=lambda p: p.parent.name)
def test_kernels_give_the_bits_of_function_bodies(path: Path) -> None:
    text_encoder = TextEncoder(path.parent)
    batch = text_encoder.pad(text_encoder.encode([(text,) for text in TEXTS]))
    with_library = bqc.session(path, strict=True, threads=1)
    feeds = EncoderInputs.of(with_library, specs_of([with_library], path)).feeds(batch)
    logits = with_library.run(None, feeds)[0]
    bodies = bqc.session(path, library=False, threads=1).run(None, feeds)[0]
    assert logits.tobytes() == bodies.tobytes()
    assert logits.argmax(-1).tolist() == [1, 0]


@pytest.mark.accuracy
@pytest.mark.parametrize("path", SIGNS, ids=lambda p: p.parent.name)
def test_accuracy_of_two_planes_of_signs(path: Path) -> None:
    data = Path(os.environ.get("BQC_DATA", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip("no task data: set BQC_DATA")
    result = evaluate(path, "sst2", data, threads=1)
    assert result.examples == 872
    assert result.metrics["accuracy"] == pytest.approx(SIGNS[path], abs=0.0001)

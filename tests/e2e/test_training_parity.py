"""A real encoder, trained a few steps and lowered: ONNX Runtime gives the bits of the torch module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from bqc.evaluate import evaluate  # noqa: E402
from bqc.evaluate.data import load_examples  # noqa: E402
from bqc.evaluate.predict import Predictor  # noqa: E402
from bqc.evaluate.tasks import find_task  # noqa: E402
from bqc.evaluate.tokens import TextEncoder  # noqa: E402
from bqc.runtime.inputs import EncoderInputs  # noqa: E402
from bqc.runtime.session import session  # noqa: E402
from bqc.train.examples import Collator, Rows  # noqa: E402
from bqc.train.recipe import Recipe  # noqa: E402
from bqc.train.training import train  # noqa: E402

MODEL = Path(__file__).parents[2] / "models" / "minilm-l6-sst2" / "model.onnx"
TASK = find_task("sst2")
ROWS = {"train": 48, "dev": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of SST-2."""
    root = tmp_path_factory.mktemp("data")
    folder = Path("glue", "SST-2")
    (root / folder).mkdir(parents=True)
    for split, rows in ROWS.items():
        lines = Path(os.environ["BQC_DATA"], folder, f"{split}.tsv").read_text(encoding="utf-8").split("\n")
        (root / folder / f"{split}.tsv").write_text("\n".join(lines[: 1 + rows]), encoding="utf-8")
    return root


@pytest.mark.slow
@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        *(("bbct", {"weight_bits": bits, "embedding_bits": 8}) for bits in (8, 4, 3, 2)),
        *(("binarybert", {"activations": "static", "activation_bits": bits}) for bits in (8, 4)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
@pytest.mark.skipif("BQC_DATA" not in os.environ, reason="needs BQC_DATA")
def test_logits_on_real_sentences(scheme: str, options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    # Of binarybert the stage of split weights too.
    make = Recipe.ternary_split if scheme == "binarybert" else Recipe.two_stage
    recipe = make(epochs=1, learning_rate=2e-4, batch_size=16)
    out = tmp_path / "trained.onnx"
    result = train(MODEL, TASK, data, out, scheme=scheme, options=options, recipe=recipe)
    trained = result.module
    text = TextEncoder(MODEL.parent, recipe.max_length)
    examples = load_examples(TASK, data)
    assert len(examples) == ROWS["dev"]
    theirs = np.stack(Predictor(running := session(out), text, 16)(text.encode(examples.texts)))
    rows = Rows(TASK, examples, text)
    batch = Collator(text, EncoderInputs.of(running))([rows[i] for i in range(len(rows))])
    feeds = {name: batch[name] for name in trained.input_names}
    ours = trained(**feeds)["logits"].numpy()
    np.testing.assert_array_equal(ours, theirs)  # and so argmax is the same on every row
    assert result.metrics == evaluate(out, TASK, data, tokenizer=MODEL.parent).metrics
    # What training runs is another sum of the same numbers: this test would see it.
    with torch.no_grad():
        fast = trained.train()(**feeds)["logits"].numpy()
    difference = np.abs(fast - theirs).max()
    print(f"{scheme} {options}: largest difference 0 in evaluation mode, {difference:.4f} in training mode")
    assert 0 < difference < 0.5

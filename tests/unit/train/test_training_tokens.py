"""Training on tags of words and on spans of answers: it learns, and the written model scores what the module does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("pydantic")
pytest.importorskip("seqeval")

from bqc.evaluate import evaluate  # noqa: E402
from bqc.train.learner import decisions  # noqa: E402
from bqc.train.recipe import Recipe  # noqa: E402
from bqc.train.training import train  # noqa: E402
from tests.support.families import Cell, exported  # noqa: E402
from tests.support.tiny_encoder import VOCABULARY, write_tokenizer  # noqa: E402

WORDS = [word for word in VOCABULARY if not word.startswith("[")]


def model(root: Path, head: str) -> Path:
    write_tokenizer(root)
    path = root / "model.onnx"
    path.write_bytes(exported("torchscript", Cell("bert", head)).read_bytes())
    return path


def tagged(root: Path) -> None:
    """Persons are called "good"."""
    (root / "conll03").mkdir()
    (root / "config.json").write_text('{"id2label": {"0": "O", "1": "B-PER"}}', encoding="utf-8")
    rng = np.random.default_rng(0)
    for split, count in (("train", 96), ("valid", 32)):
        rows = [rng.choice(WORDS, rng.integers(2, 9)) for _ in range(count)]
        lines = ["\n".join(f"{w} X X {'B-PER' if w == 'good' else 'O'}" for w in row) for row in rows]
        (root / "conll03" / f"{split}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def asked(root: Path) -> None:
    """Every answer is "bad", once in each context."""
    (root / "squad").mkdir()
    rng = np.random.default_rng(0)
    others = [word for word in WORDS if word != "bad"]
    for split, count in (("train", 96), ("dev", 32)):
        paragraphs = []
        for row in range(count):
            words = list(rng.choice(others, rng.integers(2, 7)))
            at = int(rng.integers(0, len(words) + 1))
            words.insert(at, "bad")
            answer = {"text": "bad", "answer_start": len(" ".join([*words[:at], ""]))}
            question = {"id": str(row), "question": "is the film", "answers": [answer]}
            paragraphs.append({"context": " ".join(words), "qas": [question]})
        file = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
        (root / "squad" / f"{split}-v1.1.json").write_text(json.dumps(file), encoding="utf-8")


@pytest.mark.parametrize(
    ("head", "task", "write"), [("tokens", "conll03", tagged), ("question-answering", "squad", asked)]
)
def test_it_learns_and_the_written_model_scores_the_same(
    head: str, task: str, write: object, tmp_path: Path
) -> None:
    source = model(tmp_path, head)
    assert callable(write)
    write(tmp_path)
    before = evaluate(source, task, tmp_path).metrics["f1"]
    recipe = Recipe.fine_tuning(6, 3e-3, dropout=0.0, batch_size=16)
    tuned = tmp_path / "tuned.onnx"
    result = train(source, task, tmp_path, tuned, scheme="none", recipe=recipe)
    assert result.metrics["f1"] > max(0.9, before + 0.2)
    assert result.metrics == evaluate(tuned, task, tmp_path, max_length=128).metrics
    # Distilled from what was tuned, at 4 bits.
    recipe = Recipe.two_stage(epochs=1, learning_rate=1e-3, batch_size=16)
    small = tmp_path / "small.onnx"
    result = train(tuned, task, tmp_path, small, options={"weight_bits": 4}, recipe=recipe)
    assert result.metrics == evaluate(small, task, tmp_path, max_length=128).metrics
    assert result.metrics["f1"] > 0.7


def test_decisions_leave_padding_out() -> None:
    logits = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert decisions("tagging", logits, mask).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    ends = decisions("span", logits, mask)
    assert ends[:2].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert torch.softmax(ends, -1)[2:].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert torch.equal(decisions("sentence", logits[:, 0], mask), logits[:, 0])

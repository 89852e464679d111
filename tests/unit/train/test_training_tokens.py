"""Training on tags of words and on spans of answers: it learns, and the written model scores what the module does."""

from __future__ import annotations

from pathlib import Path

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
from tests.support.tiny_encoder import write_tokenizer  # noqa: E402
from tests.support.tiny_task import write_answers, write_tags  # noqa: E402


def model(root: Path, head: str) -> Path:
    write_tokenizer(root)
    path = root / "model.onnx"
    path.write_bytes(exported("torchscript", Cell("bert", head)).read_bytes())
    return path


@pytest.mark.parametrize(
    ("head", "task", "write"),
    [("tokens", "conll03", write_tags), ("question-answering", "squad", write_answers)],
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

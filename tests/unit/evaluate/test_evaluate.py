"""Scoring tiny models end to end: tokenizer, batches, session, metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bqc.cli import main
from bqc.errors import BqcError
from bqc.evaluate import evaluate
from bqc.evaluate.tokens import TextEncoder, batches
from tests.support.tiny_encoder import VOCABULARY, write_classifier, write_embedder, write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Task data in which 'good' is positive and 'bad' negative, but for one row in ten."""
    rows = [
        "the film is good very very\t1",
        "bad\t0",
        "a very bad film\t0",
        "good\t1",
        "the good the good\t1",
    ] * 12
    rows[0] = "the film is bad\t1"
    write(tmp_path / "glue" / "SST-2" / "dev.tsv", "sentence\tlabel", rows)
    pairs = ["0\tgood film\tgood film\t5", "0\tgood film\tvery good film\t4", "0\tgood film\tbad a\t0.5"]
    write(tmp_path / "glue" / "STS-B" / "dev.tsv", "index\tsentence1\tsentence2\tscore", pairs)
    write_tokenizer(tmp_path)
    return tmp_path


def write(file: Path, header: str, rows: list[str]) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_classifier(folder: Path) -> None:
    model = write_classifier(folder / "model.onnx", labels=["negative", "positive"])
    result = evaluate(model, "sst2", folder, batch_size=7)
    assert result.metrics == {"accuracy": pytest.approx(59 / 60)}
    assert result.examples == 60
    assert result.labels_checked
    assert result.head == "logits"
    assert evaluate(model, "sst2", folder, limit=2).metrics == {"accuracy": 0.5}


def test_swapped_labels_are_refused(folder: Path) -> None:
    model = write_classifier(folder / "model.onnx", labels=["positive", "negative"])
    with pytest.raises(BqcError, match="in another order"):
        evaluate(model, "sst2", folder)


def test_swapped_outputs_without_names_are_refused(folder: Path) -> None:
    weight = np.zeros((len(VOCABULARY), 2), dtype=np.float32)
    weight[VOCABULARY.index("good"), 0] = weight[VOCABULARY.index("bad"), 1] = 1
    model = write_classifier(folder / "model.onnx", weight)
    with pytest.raises(BqcError, match="run against the labels"):
        evaluate(model, "sst2", folder)


def test_embeddings_are_scored_by_similarity(folder: Path) -> None:
    result = evaluate(write_embedder(folder / "model.onnx"), "stsb", folder)
    assert result.metrics["spearman"] == pytest.approx(1.0)
    assert result.head == "hidden"
    with pytest.raises(BqcError, match="SST-2 needs a classifier"):
        evaluate(folder / "model.onnx", "sst2", folder)


def test_the_verb(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(write_classifier(folder / "model.onnx", labels=["negative", "positive"]))
    assert main(["eval", model, "--task", "SST-2", "--data", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert report["results"][0]["metrics"]["accuracy"] == pytest.approx(59 / 60)
    assert main(["eval", model, model, "--task", "sst2", "--data", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "98.33" in text
    assert "+0.00" in text


def test_no_tokenizer(folder: Path) -> None:
    model = write_classifier(folder / "elsewhere" / "model.onnx")
    with pytest.raises(BqcError, match="--tokenizer DIR"):
        evaluate(model, "sst2", folder)
    assert evaluate(model, "sst2", folder, tokenizer=folder).examples == 60


def test_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BqcError, match=r"pip install 'bqc\[eval\]'"):
        evaluate(write_classifier(folder / "model.onnx"), "sst2", folder)


def test_tokens(folder: Path) -> None:
    encoder = TextEncoder(folder, max_length=6)
    encodings = encoder.encode([("good film", "bad"), ("the film is not a very good film",)])
    assert encodings[0].ids == [2, 4, 6, 3, 5, 3]
    assert encodings[0].types == [0, 0, 0, 0, 1, 1]
    assert len(encodings[1].ids) == 6
    batch = encoder.pad(encoder.encode([("good",), ("good film",)]), left=True)
    assert batch.ids.tolist() == [[0, 2, 4, 3], [2, 4, 6, 3]]
    assert batch.mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]


def test_batches_are_sorted_and_complete(folder: Path) -> None:
    encodings = TextEncoder(folder).encode([("good",), ("good film a",), ("a film",), ("bad",)])
    assert [batch.tolist() for batch in batches(encodings, 3)] == [[1, 2, 0], [3]]

"""A tiny BERT with everything beside it that evaluation and analysis look for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from bqc.ir.synthetic import canonical_bert
from tests.support.tiny_encoder import VOCABULARY, write_tokenizer

__all__ = ["TINY", "write_answers", "write_bert", "write_tags"]

TINY: dict[str, Any] = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "vocab": len(VOCABULARY)}

_WORDS = [word for word in VOCABULARY if not word.startswith("[")]


def write_bert(folder: Path, rows: int = 40, **options: Any) -> Path:
    """``model.onnx`` with a tokenizer, a config.json of SST-2's labels, and SST-2 files of random sentences.

    The sentences' labels are random too: only gradients and differences are looked at.
    """
    path = folder / "model.onnx"
    ir.save(canonical_bert(**{**TINY, **options}), path)
    write_tokenizer(folder)
    labels = {"id2label": {"0": "negative", "1": "positive"}, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(labels), encoding="utf-8")
    random = np.random.default_rng(0)
    lines = ["sentence\tlabel"]
    for row in range(rows):
        words = random.choice(VOCABULARY[4:], random.integers(2, 9))
        lines.append(f"{' '.join(words)}\t{row % 2}")
    place = folder / "glue" / "SST-2"
    place.mkdir(parents=True)
    for split in ("train", "dev"):
        (place / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tags(root: Path) -> None:
    """CoNLL-03 files and config.json; persons are called "good"."""
    (root / "conll03").mkdir()
    (root / "config.json").write_text('{"id2label": {"0": "O", "1": "B-PER"}}', encoding="utf-8")
    rng = np.random.default_rng(0)
    for split, count in (("train", 96), ("valid", 32)):
        rows = [rng.choice(_WORDS, rng.integers(2, 9)) for _ in range(count)]
        lines = ["\n".join(f"{w} X X {'B-PER' if w == 'good' else 'O'}" for w in row) for row in rows]
        (root / "conll03" / f"{split}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def write_answers(root: Path) -> None:
    """SQuAD files; every answer is "bad", once in each context."""
    (root / "squad").mkdir()
    rng = np.random.default_rng(0)
    others = [word for word in _WORDS if word != "bad"]
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

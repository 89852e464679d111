"""A tiny BERT with everything beside it that evaluation and analysis look for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from bqc.ir.synthetic import canonical_bert
from tests.support.tiny_encoder import VOCABULARY, write_tokenizer

__all__ = ["TINY", "write_bert"]

TINY: dict[str, Any] = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "vocab": len(VOCABULARY)}


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

"""A tiny BERT and rows that it can learn, and what it computes once it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bqc.evaluate.data import load_examples
from bqc.evaluate.predict import Predictor
from bqc.evaluate.tasks import find_task
from bqc.evaluate.tokens import TextEncoder
from bqc.ir import import_model
from bqc.runtime.inputs import EncoderInputs
from bqc.runtime.session import session
from bqc.train.examples import Collator, Rows
from bqc.train.module import OnnxModule
from tests.support.families import Cell, exported
from tests.support.tiny_encoder import VOCABULARY, write_tokenizer

__all__ = ["TASK", "both_logits", "write_trainable"]

TASK = find_task("mrpc")


def write_trainable(root: Path) -> Path:
    """A tiny BERT with a tokenizer, and MRPC rows whose label is whether both sentences say "good"; the folder."""
    write_tokenizer(root)
    (root / "model.onnx").write_bytes(exported("torchscript", Cell("bert", "classification")).read_bytes())
    rng = np.random.default_rng(0)
    words = [w for w in VOCABULARY if not w.startswith("[")]
    (root / "glue" / "MRPC").mkdir(parents=True)
    for split, count in (("train", 96), ("dev", 64)):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for row in range(count):
            texts = [" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(2)]
            label = int(all("good" in text.split() for text in texts)) if row % 2 else 1
            if not row % 2:
                texts = [f"{text} good" for text in texts]
            lines.append(f"{label}\t0\t0\t{texts[0]}\t{texts[1]}")
        (root / "glue" / "MRPC" / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return root


def both_logits(folder: Path, path: Path, trained: OnnxModule) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the torch module and of the written model on the dev rows."""
    text = TextEncoder(folder, 128)
    examples = load_examples(TASK, folder)
    collate = Collator(text, EncoderInputs.of_model(import_model(folder / "model.onnx")[0]))
    rows = Rows(TASK, examples, text)
    batch = collate([rows[i] for i in range(len(rows))])
    feeds = {name: batch[name] for name in trained.input_names}
    with torch.no_grad():
        ours = trained(**feeds)["logits"].numpy()
    return ours, np.stack(Predictor(session(path), text, 64)(text.encode(examples.texts)))

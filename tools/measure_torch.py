"""Score a Hugging Face checkpoint with torch alone: what `bqc eval` of its export must equal.

    python -m tools.measure_torch CHECKPOINT_DIR:sst2 CHECKPOINT_DIR:mrpc --data DATA

Shares no code with bqc: rows through csv, tokens and logits through transformers, one batch of equal rows at a time.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import scipy.stats
import sklearn.metrics
import torch
import transformers

FILES = {
    "sst2": ("SST-2", lambda row: ([row[0]], row[1])),
    "mrpc": ("MRPC", lambda row: ([row[3], row[4]], row[0])),
    "stsb": ("STS-B", lambda row: ([row[-3], row[-2]], row[-1])),
}


def rows_of(task: str, data: Path) -> tuple[list[list[str]], np.ndarray]:
    """Texts and labels of the development rows."""
    folder, pick = FILES[task]
    with open(data / "glue" / folder / "dev.tsv", encoding="utf-8-sig", newline="") as file:
        _, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    texts, labels = zip(*(pick(row) for row in rows), strict=True)
    return [[part.strip() for part in text] for text in texts], np.asarray(labels, dtype=np.float64)


@torch.no_grad()
def logits_of(checkpoint: str, texts: list[list[str]]) -> np.ndarray:
    """Logits [rows, classes], 32 rows at a time in their own order."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    network.eval()
    parts = []
    for start in range(0, len(texts), 32):
        columns = [list(column) for column in zip(*texts[start : start + 32], strict=True)]
        batch = tokenizer(*columns, truncation=True, max_length=128, padding=True, return_tensors="pt")
        parts.append(network(**batch).logits.numpy())
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="DIR:TASK")
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    for item in options.checkpoints:
        checkpoint, task = item.rsplit(":", 1)
        texts, labels = rows_of(task, options.data)
        logits = logits_of(checkpoint, texts)
        if task == "stsb":
            scores = {
                "spearman": scipy.stats.spearmanr(labels, logits[:, 0])[0],
                "pearson": scipy.stats.pearsonr(labels, logits[:, 0])[0],
            }
        else:
            predictions = logits.argmax(axis=1)
            scores = {
                "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
                "f1": sklearn.metrics.f1_score(labels, predictions),
            }
        shown = ", ".join(f"{name} {100 * value:.6f}" for name, value in scores.items())
        print(f"{task} ({len(labels)} rows): {shown}", flush=True)


if __name__ == "__main__":
    main()

r"""Which sensitivity metric tells beforehand what a weight costs? Rank agreement with the true loss of quality.

    python -m tools.measure_sensitivity model.onnx weight-error.json mse.json kl.json fisher.json --task sst2 \
        --data DATA --format 'BlockShift(2,64)' --drops drops.jsonl

Every weight of the float model is quantised alone and the whole development set is scored: the truth is the drop of
the task's metric, and the rise of its cross-entropy, which is finer. Files of `bqc sensitivity` for the same model and
format are ranked against both by Spearman's coefficient. ``--drops`` keeps the scores that are done, and goes on from
there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from bqc.artifact import file_sha256
from bqc.evaluate.tasks import find_task
from bqc.formats import BlockShift
from bqc.sensitivity.parts import weight_parts
from bqc.sensitivity.resume import Journal
from bqc.sensitivity.scores import Score, Sensitivity
from bqc.sensitivity.subject import Sample, Subject, from_task
from tools.measure_common import arguments, report


def quality(sample: Sample, outputs: list[np.ndarray]) -> tuple[float, float]:
    """The task's first metric in points, and the mean cross-entropy in nats."""
    assert sample.task is not None
    assert sample.examples is not None
    predictions = sample.task.predictions(sample.examples, sample.features, outputs)
    metric = sample.task.score(sample.examples, predictions)[sample.task.metrics[0]]
    logits = np.stack(outputs).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    likelihood = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    labels = np.asarray(sample.examples.labels)
    return 100 * metric, float(-likelihood[np.arange(len(labels)), labels].mean())


def drops(path: Path, sample: Sample, fmt: BlockShift, journal: Journal, threads: int | None) -> list[Score]:
    """The drop of the metric and the rise of the cross-entropy for every weight in ``fmt``."""
    found = []
    with Subject(path, sample, threads) as subject:
        base = None
        for part in weight_parts(subject.model):
            score = journal.found.get((part.kind, part.key))
            if score is None:
                base = base or quality(sample, subject.outputs())
                metric, entropy = quality(sample, subject.outputs(part, fmt))
                score = Score(part.kind, part.key, {"drop": base[0] - metric, "rise": entropy - base[1]})
                journal.add(score)
                print(f"{part.key}: {score.formats}", flush=True)
            found.append(score)
    return found


def agreement(truth: list[Score], files: list[Path], fmt: str) -> list[dict[str, Any]]:
    """Spearman's coefficient of each file with both truths; of Q-BERT's Omega alone too, where a file has it."""
    rows = []
    for file in files:
        scores = Sensitivity.read(file)
        by_key = {score.key: score for score in scores.scores}
        values = {scores.metric: [by_key[one.key].formats[fmt] for one in truth]}
        for detail in ("omega", "trace"):
            if detail in scores.scores[0].details:
                values[f"{scores.metric}: {detail} alone"] = [
                    by_key[one.key].details[detail] for one in truth
                ]
        for name, column in values.items():
            row: dict[str, Any] = {"metric": name, "sample": scores.sample}
            for kind in ("drop", "rise"):
                row[kind] = scipy.stats.spearmanr(column, [one.formats[kind] for one in truth])[0]
            row["seconds"] = sum(score.seconds for score in scores.scores)
            rows.append(row)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("model", type=Path, help="float .onnx file, tokenizer and config.json beside it")
    parser.add_argument("files", nargs="*", type=Path, help="scores that bqc sensitivity wrote")
    parser.add_argument("--task", required=True)
    parser.add_argument(
        "--data", type=Path, help="folder of the task's files [default: BQC_DATA, else the hub]"
    )
    parser.add_argument("--format", default="BlockShift(2,64)")
    parser.add_argument(
        "--drops", type=Path, required=True, help="file of the true drops, written as they come"
    )
    options = parser.parse_args()
    fmt = BlockShift.parse(options.format)
    sample = from_task(options.model, find_task(options.task), options.data, "dev", None, 0, None)
    asked = {"model": file_sha256(options.model), "format": str(fmt), "sample": sample.description}
    truth = drops(options.model, sample, fmt, Journal(options.drops, asked), options.threads)
    worst = sorted(truth, key=lambda one: -one.formats["drop"])
    rows = [[one.key, f"{one.formats['drop']:.2f}", f"{one.formats['rise']:.4f}"] for one in worst]
    report(["weight", "drop", "cross-entropy"], rows, None, None)
    found = agreement(truth, options.files, str(fmt))
    report(
        ["metric", "with the drop", "with the cross-entropy", "seconds"],
        [
            [row["metric"], f"{row['drop']:.2f}", f"{row['rise']:.2f}", f"{row['seconds']:.0f}"]
            for row in found
        ],
        {"truth": [[one.key, one.formats] for one in truth], "agreement": found},
        options.json,
    )


if __name__ == "__main__":
    main()

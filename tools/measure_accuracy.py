"""Accuracy of compiled models on whole development sets, beside their float models.

    python -m tools.measure_accuracy models/minilm-l6-sst2/model.onnx:sst2 --data DATA

Every MODEL:TASK is compiled with `bqc.compile` in each configuration and scored with `bqc.evaluate` through the
kernels; a node without a kernel is an error. Metrics in points; the drop is that of each metric.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bqc
from bqc.evaluate import evaluate
from bqc.evaluate.tasks import find_task
from tools.measure_common import arguments, report, scratch

CONFIGURATIONS: dict[str, dict[str, int]] = {
    "W8 b64": {"weight_bits": 8, "block": 64},
    "W6 b64": {"weight_bits": 6, "block": 64},
    "W4 b64": {"weight_bits": 4, "block": 64},
    "W4 b32": {"weight_bits": 4, "block": 32},
    "W4 b64, tables 8": {"weight_bits": 4, "block": 64, "embedding_bits": 8},
    "W3 b64": {"weight_bits": 3, "block": 64},
    "W3 b64, tables 8": {"weight_bits": 3, "block": 64, "embedding_bits": 8},
    "W2 b64": {"weight_bits": 2, "block": 64},
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL:TASK", help="float .onnx file and its task")
    parser.add_argument("--data", help="folder of the tasks' files [default: BQC_DATA, else the hub]")
    parser.add_argument("--limit", type=int, help="score the first N rows only")
    options = parser.parse_args()
    rows: list[list[str]] = []
    numbers: list[dict[str, Any]] = []
    for text in options.models:
        name, _, task = text.rpartition(":")
        source = Path(name)
        known = {"threads": options.threads, "limit": options.limit}
        with scratch() as folder:
            baseline: dict[str, float] = {}
            for label, settings in {"float": {}, **CONFIGURATIONS}.items():
                path = source
                if settings:
                    path = Path(folder) / "model.onnx"
                    bqc.compile(source, output=path, **settings)
                result = evaluate(path, task, options.data, tokenizer=source.parent, strict=True, **known)
                metrics = {key: 100 * value for key, value in result.metrics.items()}
                baseline = baseline or metrics
                drops = {key: baseline[key] - value for key, value in metrics.items()}
                title = f"{find_task(task).title} ({result.examples}, {result.head})"
                shown = " / ".join(f"{value:.2f}" for value in metrics.values())
                rows.append([title, " / ".join(metrics), label, shown])
                rows[-1].append(" / ".join(f"{d:+.2f}" for d in drops.values()) if settings else "")
                numbers.append({"task": task, "model": source.parent.name, "configuration": label, **metrics})
                print(rows[-1], file=sys.stderr, flush=True)
    report(["task (rows, output)", "metrics", "model", "points", "drop"], rows, numbers, options.json)


if __name__ == "__main__":
    main()

"""Shared by the measure_* tools: building variants of a model out of passes, predicting with them, tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime

import bqc
from bqc.evaluate.predict import Predictor
from bqc.evaluate.tasks import find_task, load_examples
from bqc.evaluate.tokens import TextEncoder
from bqc.ir import import_model
from bqc.pipeline import run
from bqc.runtime.doctor import cpu_name
from bqc.runtime.session import MissingKernelWarning

__all__ = [
    "Scorer",
    "Scores",
    "arguments",
    "build",
    "mean_error",
    "quiet_fallback",
    "report",
    "scratch",
    "versions",
]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every tool has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of ONNX Runtime [default: its own choice]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    return parser


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for compiled models that is gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="bqc-measure-")


def quiet_fallback() -> None:
    """Half-quantised graphs run partly as function bodies: slower, the same bits, and no news."""
    warnings.simplefilter("ignore", MissingKernelWarning)


def build(model: Path, passes: Sequence[ir.passes.InPlacePass], output: Path) -> Path:
    """The float model after ``passes``, saved as a runnable file."""
    loaded, _ = import_model(model)
    run(loaded, passes)
    loaded.ir_version = min(loaded.ir_version, 10)
    ir.save(loaded, output)
    return output


@dataclass(frozen=True)
class Scores:
    """Metrics in points, and the raw outputs [rows, width] they come from."""

    metrics: dict[str, float]
    outputs: npt.NDArray[np.float32]


class Scorer:
    """A task's development rows as a function from a model file with logits to scores."""

    def __init__(
        self,
        task: str,
        data: str | None,
        tokenizer: Path,
        threads: int | None = None,
        limit: int | None = None,
        batch_size: int = 32,
    ) -> None:
        self.task = find_task(task)
        self._examples = load_examples(self.task, data, "dev").head(limit)
        self._encoder = TextEncoder(tokenizer, default=self.task.max_length)
        self._features = self.task.features(self._examples, self._encoder)
        self._threads = threads
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._examples)

    def __call__(self, path: Path, library: bool = True) -> Scores:
        session = bqc.session(path, threads=self._threads, library=library)
        predict = Predictor(session, self._encoder, self._batch_size)
        outputs = np.stack(predict(self._features.encodings))
        predictions = self.task.predictions(self._examples, self._features, list(outputs))
        found = self.task.score(self._examples, predictions)
        return Scores({name: 100 * value for name, value in found.items()}, outputs)


def mean_error(found: Scores, base: Scores) -> float:
    """Mean squared difference of the outputs."""
    return float(np.mean((found.outputs.astype(np.float64) - base.outputs) ** 2))


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "cpu": f"{cpu_name()} x {os.cpu_count()}",
    }


def report(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Any, path: Path | None) -> None:
    """Print a Markdown table; write ``numbers`` and the versions as JSON if asked for."""
    cells = [list(map(str, columns)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for i, row in enumerate(cells):
        padded = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        print(f"| {' | '.join(padded)} |")
        if i == 0:
            rules = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
            print(f"| {' | '.join(rules)} |")
    if path is not None:
        path.write_text(json.dumps({"versions": versions(), "results": numbers}, indent=1) + "\n")
    sys.stdout.flush()

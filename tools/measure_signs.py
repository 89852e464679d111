"""Accuracy of weights of signs: trains the rows of a table, each by `bqc train`, and scores the written files.

    python -m tools.measure_signs sst2/model.onnx:sst2 mrpc/model.onnx:mrpc --data DATA --folder RUNS \\
        --rows ternary-a8,binary-a8,split-a8,split-a4,split-a8-half

A row is WEIGHTS-aBITS, with -half, -relu or -static behind it: what bqc train --scheme binarybert calls --weights, then
--activation-bits, --width 0.5, --ffn-activation relu, --activations static. 4-bit activations have blocks of 64, unless
they are static. All rows of a task have the same number of epochs, those of models/recipes/signs-*.yaml; the slim
model of a -half row has its own before, and is scored as row "slim". A run that was stopped goes on when the tool is
started again; one that is finished is not done again. --jobs runs at once pay on a GPU and on many cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.measure_common import arguments

RECIPES = Path(__file__).resolve().parents[1] / "models" / "recipes"
METRICS = {"sst2": ("accuracy",), "mrpc": ("accuracy", "f1"), "stsb": ("spearman",), "cola": ("matthews",)}
WEIGHTS = {"split": "split", "two-plane": "split", "ternary": "binary", "binary": "binary"}
"""What --weights takes, and the recipe of as many epochs."""


@dataclass(frozen=True)
class Run:
    """One model to train: a row of the table, for a float model and its task.

    Attributes:
        model: the float model, which is the teacher too; its tokenizer lies beside it.
        task: name of the task.
        row: as in the description above.
        seed: of everything random.
    """

    model: Path
    task: str
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.row}" + (f"-s{self.seed}" if self.seed else "")

    def options(self) -> list[str]:
        """The options of ``bqc train``.

        Raises:
            ValueError: the row has no such form.
        """
        weights, bits, *more = self.row.rsplit("-a", 1)[0], *self.row.rsplit("-a", 1)[-1].split("-")
        if weights not in WEIGHTS or bits not in ("8", "6", "4") or not {*more} <= {"half", "relu", "static"}:
            raise ValueError(f"'{self.row}' is no WEIGHTS-aBITS[-half][-relu][-static]")
        recipe = f"signs-{WEIGHTS[weights]}" + ("-sst2" if self.task == "sst2" else "")
        options = [
            "--weights",
            weights,
            "--activation-bits",
            bits,
            "--recipe",
            str(RECIPES / f"{recipe}.yaml"),
        ]
        if bits == "4" and "static" not in more:
            options += ["--block", "64"]
        if "half" in more:
            options += ["--width", "0.5"]
        if "relu" in more:
            options += ["--ffn-activation", "relu"]
        if "static" in more:
            options += ["--activations", "static"]
        return options


def perform(run: Run, data: str, folder: Path, limit: int | None, threads: int | None) -> bool:
    """Train and score one run, unless its result is there: ``NAME.json`` in the folder. Whether it succeeded."""
    result, log, checkpoints = (folder / f"{run.name}{end}" for end in (".json", ".log", ".checkpoints"))
    if result.exists():
        return True
    out = folder / run.name
    command = [
        "train",
        str(run.model),
        "--scheme",
        "binarybert",
        "--task",
        run.task,
        "--data",
        data,
        *run.options(),
    ]
    command += [
        "--seed",
        str(run.seed),
        "--checkpoints",
        str(checkpoints),
        "--save-steps",
        "300",
        "-q",
        "-o",
        f"{out}/",
    ]
    command += ["--resume"] if checkpoints.is_dir() else []
    command += ["--limit", str(limit)] if limit else []
    print(f"training {run.name}", file=sys.stderr, flush=True)
    if not _bqc(command, log, threads):
        print(f"{run.name} failed; see {log}", file=sys.stderr, flush=True)
        return False
    (model,) = out.glob("*.bqc.onnx")
    scores = {run.row: _scores(model, run, data, log, threads)}
    if slim := list(checkpoints.glob("slim/tuned/*.onnx")):
        scores["slim"] = _scores(slim[0], run, data, log, threads)
    if not all(scores.values()):
        print(f"{run.name} cannot be scored; see {log}", file=sys.stderr, flush=True)
        return False
    size = sum(file.stat().st_size for file in out.glob("*.bqc.onnx*"))
    text = json.dumps({"task": run.task, "seed": run.seed, "scores": scores, "bytes": size}, indent=1)
    result.write_text(text + "\n", encoding="utf-8")
    return True


def _bqc(arguments: list[str], log: Path, threads: int | None) -> bool:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "bqc.cli", *arguments]
        return subprocess.run(command, stdout=file, stderr=file, env=environment, check=False).returncode == 0


def _scores(model: Path, run: Run, data: str, log: Path, threads: int | None) -> dict[str, float] | None:
    """The metrics of a written file."""
    command = [
        "eval",
        str(model),
        "--task",
        run.task,
        "--data",
        data,
        "--tokenizer",
        str(run.model.parent),
        "--json",
    ]
    answer = log.with_suffix(".eval")
    answer.unlink(missing_ok=True)
    if not _bqc(command, answer, threads):
        return None
    metrics = json.loads(answer.read_text(encoding="utf-8"))["results"][0]["metrics"]
    answer.unlink()
    return {name: float(value) for name, value in metrics.items()}


def table(results: list[dict[str, Any]], tasks: list[str]) -> str:
    """Results in percent, as Markdown; an empty cell is a run that was not done."""
    cells: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    for result in results:
        for row, metrics in result["scores"].items():
            cells.setdefault((row, result["seed"]), {})[result["task"]] = metrics
    columns = [(task, metric) for task in tasks for metric in METRICS[task]]
    lines = ["| row | seed | " + " | ".join(f"{task} {metric}" for task, metric in columns) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(columns))
    for (row, seed), of_task in sorted(cells.items()):
        values = [f"{100 * of_task[task][metric]:.2f}" if task in of_task else "" for task, metric in columns]
        lines.append(f"| {row} | {seed} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx:TASK", help=f"tasks: {', '.join(METRICS)}")
    parser.add_argument("--data", required=True, help="folder of the tasks' files")
    parser.add_argument(
        "--folder", type=Path, required=True, help="for results, checkpoints and compiled models"
    )
    parser.add_argument("--rows", required=True, metavar="ROW,...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, help="train on the first N rows only, to try")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    options = parser.parse_args()
    runs = []
    for entry in options.models:
        model, _, task = entry.rpartition(":")
        if task not in METRICS or not Path(model).is_file():
            parser.error(f"'{entry}' is no MODEL.onnx:TASK with a task of {', '.join(METRICS)}")
        runs += [
            Run(Path(model), task, row, seed) for row in options.rows.split(",") for seed in options.seeds
        ]
    try:
        for run in runs:
            run.options()
    except ValueError as error:
        parser.error(str(error))
    options.folder.mkdir(parents=True, exist_ok=True)

    def one(run: Run) -> bool:
        return perform(run, options.data, options.folder, options.limit, options.threads)

    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(one, runs))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(options.folder.glob("*.json"))]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results, list(dict.fromkeys(run.task for run in runs))))
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())

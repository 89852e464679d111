"""What quantisation-aware training gives back: scores before and after, and the lowered model against the module.

    python -m tools.measure_training MODEL.onnx --task mrpc --data DATA --weight-bits 2 --recipe RECIPE.yaml \\
        --folder RUNS

For every seed it trains with distillation from MODEL itself, lowers the result with the ordinary passes and scores
both, row by row, on the task's dev rows. Prints one JSON object a line: the float model, the model compiled without
training, then every seed, with the rows whose logits are not the same bits in torch and in ONNX Runtime. Runs with
checkpoints under --folder can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bqc.compiler import compile as compile_model
from bqc.evaluate import evaluate
from bqc.evaluate.data import load_examples
from bqc.evaluate.predict import Predictor
from bqc.evaluate.tasks import TASKS, find_task
from bqc.evaluate.tokens import TextEncoder
from bqc.ir import load
from bqc.runtime.inputs import EncoderInputs
from bqc.runtime.session import session
from bqc.train.examples import MASK, Collator, Rows
from bqc.train.module import OnnxModule
from bqc.train.recipe import Recipe
from bqc.train.training import train


def logits_of(module: OnnxModule, rows: Rows, collator: Collator, batch_size: int = 64) -> np.ndarray:
    """Logits float32 [rows, classes] of the torch module; in evaluation mode those of its compiled graph."""
    results = []
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = collator([rows[i] for i in range(start, min(start + batch_size, len(rows)))])
            feeds = {name: value for name, value in batch.items() if name not in ("labels", MASK)}
            results.append(module(**feeds)[module.output_names[0]].numpy())
    return np.concatenate(results)


def _predicted(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", required=True, choices=sorted(TASKS))
    parser.add_argument("--data", help="folder of the task's files [default: BQC_DATA, else the hub]")
    parser.add_argument("--weight-bits", type=int, default=2)
    parser.add_argument("--embedding-bits", type=int, default=8)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, help="train on the first N rows only")
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints and compiled models")
    parser.add_argument("--save-steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    formats = {"weight_bits": options.weight_bits, "embedding_bits": options.embedding_bits}
    recipe = Recipe.read(options.recipe)
    task = find_task(options.task)

    def report(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    def scores(path: Path) -> dict[str, float]:
        return evaluate(
            path,
            task,
            options.data,
            tokenizer=options.model.parent,
            threads=options.threads,
            max_length=recipe.max_length,
            strict=True,
        ).metrics

    untrained = options.folder / "untrained.onnx"
    compile_model(options.model, output=untrained, options=formats)
    report(what="float", metrics=scores(options.model))
    report(what="untrained", metrics=scores(untrained), **formats)
    examples = load_examples(task, options.data)
    text = TextEncoder(options.model.parent, recipe.max_length)
    collator = Collator(text, EncoderInputs.of_model(load(options.model)))
    for seed in options.seeds:
        path = options.folder / f"seed-{seed}.onnx"
        checkpoints = options.folder / f"seed-{seed}"
        result = train(
            options.model,
            task,
            options.data,
            path,
            options=formats,
            recipe=recipe.model_copy(update={"seed": seed}),
            checkpoints=checkpoints,
            resume=checkpoints.is_dir(),
            save_steps=options.save_steps,
            limit=options.limit,
        )
        ours = logits_of(result.module, Rows(task, examples, text), collator)
        predict = Predictor(session(path, strict=True, threads=options.threads), text, 32)
        theirs = np.stack(predict(text.encode(examples.texts)))
        report(
            what=f"seed {seed}",
            metrics=scores(path),
            module=result.metrics,
            largest_difference=float(np.abs(ours - theirs).max()),
            other_predictions=int((_predicted(ours) != _predicted(theirs)).sum()),
            unequal_rows=np.flatnonzero((ours != theirs).any(1)).tolist(),
            rows=len(examples),
            seconds=round(result.seconds),
        )


if __name__ == "__main__":
    main()

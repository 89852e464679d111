"""The accuracy of a model file, float or compiled, on a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.data import load_examples
from bqc.evaluate.extras import require
from bqc.evaluate.files import read_json
from bqc.evaluate.labels import check_labels
from bqc.evaluate.metrics import score
from bqc.evaluate.predict import Predictor
from bqc.evaluate.task import Examples, Task
from bqc.evaluate.tasks import find_task
from bqc.evaluate.tokens import TextEncoder
from bqc.runtime.session import session

__all__ = ["EvalResult", "evaluate"]

# Predictions this far on the wrong side of chance (Matthews correlation) are a permuted head, not a bad one:
# an encoder that lost everything to quantisation lands at zero.
_PERMUTED = -0.3


@dataclass(frozen=True)
class EvalResult:
    """Scores of one model on one split of a task.

    Attributes:
        model: the file.
        task: the task's name.
        split: ``dev`` or ``train``.
        metrics: metric name -> fraction in [-1, 1]; the first is the one to quote.
        examples: rows scored.
        seconds: time inside the session; loading and tokenising are not in it.
        examples_per_second: rows (not texts) a second of that time.
        head: ``logits``, ``embedding`` or ``hidden`` (mean pooled).
        labels_checked: whether ``config.json`` proved the order of the classes.
        max_length: tokens a text was truncated to.
        batch_size: rows a run.
        threads: intra-operator threads; None is ONNX Runtime's own choice.
    """

    model: str
    task: str
    split: str
    metrics: dict[str, float]
    examples: int
    seconds: float
    examples_per_second: float
    head: str
    labels_checked: bool
    max_length: int
    batch_size: int
    threads: int | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def evaluate(
    path: str | Path,
    task: str | Task,
    data: str | Path | None = None,
    *,
    split: str = "dev",
    limit: int | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    tokenizer: str | Path | None = None,
    max_length: int | None = None,
    strict: bool = False,
    library: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Score a model on a task, without torch.

    Args:
        path: the ``.onnx`` file; ``tokenizer.json`` and ``config.json`` are looked for beside it.
        task: a task or its name.
        data: folder with the task's files; None takes ``BQC_DATA`` or else the hub.
        split: ``dev`` or ``train``.
        limit: score the first rows only.
        batch_size: rows a run; batches are sorted by length.
        threads: intra-operator threads.
        tokenizer: folder of ``tokenizer.json``, if it is not beside the model.
        max_length: tokens to keep of a text or pair; None is 128 or what the model has positions for.
        strict: a missing kernel is an error instead of a warning.
        library: False runs a compiled model's function bodies in plain ONNX Runtime.
        progress: called with (rows done, rows in all).

    Raises:
        BqcError: the model, its tokenizer or the rows cannot be read, the model's head does not fit the task
            (another number or order of classes), or ``bqc[eval]`` is not installed.
    """
    if isinstance(task, str):
        task = find_task(task)
    for module in ("tokenizers", "scipy.stats", "sklearn.metrics"):
        require(module, "eval")
    running = session(path, strict=strict, threads=threads, library=library)
    encoder = TextEncoder(tokenizer or Path(path).parent, max_length)
    predict = Predictor(running, encoder, batch_size, progress)
    config = read_json(Path(path).with_name("config.json"))
    width = next(value for value in running.get_outputs() if value.name == predict.head.output).shape[-1]
    if predict.head.embeds:
        _check_embeds(task)
    elif isinstance(width, int):
        check_labels(task, config, width)  # before the work, where the graph tells
    examples = load_examples(task, data, split).head(limit)
    proven = False
    predictions: npt.NDArray[np.generic]
    if predict.head.embeds:
        predictions = _similarities(predict, examples)
    else:
        logits = predict(examples.texts)
        proven = check_labels(task, config, logits.shape[1])
        predictions = logits[:, 0] if task.regression else logits.argmax(axis=1)
    metrics = score(task.metrics, examples.labels, predictions)
    if not (task.regression or proven):
        _check_permuted(task, examples, predictions)
    return EvalResult(
        model=str(path),
        task=task.name,
        split=split,
        metrics=metrics,
        examples=len(examples),
        seconds=predict.seconds,
        examples_per_second=len(examples) / predict.seconds,
        head=predict.head.kind,
        labels_checked=proven,
        max_length=encoder.max_length,
        batch_size=batch_size,
        threads=threads,
    )


def _check_embeds(task: Task) -> None:
    if not (task.regression and len(task.local.text) == 2):
        raise BqcError(
            f"an embedding model is scored by the similarity of pairs; {task.title} needs a classifier"
        )


def _similarities(predict: Predictor, examples: Examples) -> npt.NDArray[np.float64]:
    """Cosine of the two embeddings of every pair, float64 ``[rows]``; equal texts are run once."""
    distinct = list(dict.fromkeys(text for pair in examples.texts for text in pair))
    vectors = predict([(text,) for text in distinct]).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    where = {text: row for row, text in enumerate(distinct)}
    first, second = (vectors[[where[pair[side]] for pair in examples.texts]] for side in (0, 1))
    return np.asarray((first * second).sum(axis=1))


def _check_permuted(task: Task, examples: Examples, predictions: npt.NDArray[np.generic]) -> None:
    correlation = score(("matthews",), examples.labels, predictions)["matthews"]
    if len(examples) >= 50 and correlation < _PERMUTED:
        raise BqcError(
            f"predictions run against the labels (Matthews correlation {correlation:.2f}): its classes "
            f"are in another order than {task.title}'s ({', '.join(task.labels)}); "
            "say so in config.json's id2label"
        )

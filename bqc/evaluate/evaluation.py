"""The accuracy of a model file, float or compiled, on a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.data import load_examples
from bqc.evaluate.extras import require
from bqc.evaluate.files import read_json
from bqc.evaluate.metrics import score
from bqc.evaluate.predict import Predictor
from bqc.evaluate.sentences import SentenceTask
from bqc.evaluate.task import Examples, Features, Floats, Task
from bqc.evaluate.tasks import find_task
from bqc.evaluate.tokens import TextEncoder
from bqc.runtime.inputs import EncoderInputs
from bqc.runtime.session import session

__all__ = ["EvalResult", "evaluate"]

# Predictions that gain this much Matthews correlation by renaming classes come from a permuted head, not a bad one:
# an encoder that lost everything to quantisation lands at zero whatever its classes are called. Of two classes
# it means a correlation below -0.3.
_PERMUTED = 0.6
_ENOUGH = 50
"""Rows from which predictions can prove anything about the order of classes."""


@dataclass(frozen=True)
class EvalResult:
    """Scores of one model on one split of a task.

    Attributes:
        model: the file.
        task: the task's name.
        split: ``dev`` or ``train``.
        metrics: metric name -> fraction in [-1, 1]; the first is the one to quote.
        examples: rows scored.
        features: token sequences run for them: more than rows where a context took several windows.
        seconds: time inside the session; loading and tokenising are not in it.
        examples_per_second: rows (not texts) a second of that time.
        head: ``logits``, ``tags``, ``spans``, ``embedding`` or ``hidden`` (mean pooled).
        labels_checked: whether ``config.json`` proved the order of the classes or tags.
        max_length: tokens a text was truncated to.
        batch_size: rows a run.
        threads: intra-operator threads; None is ONNX Runtime's own choice.
    """

    model: str
    task: str
    split: str
    metrics: dict[str, float]
    examples: int
    features: int
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
        task: a task (see `bqc.evaluate.tasks.column_task` for a file of your own) or a name in `TASKS`.
        data: folder with the task's files, or the file of a `column_task`; None takes ``BQC_DATA`` or else the hub.
        split: ``dev`` or ``train``.
        limit: score the first rows only.
        batch_size: token sequences a run; batches are sorted by length.
        threads: intra-operator threads.
        tokenizer: folder of ``tokenizer.json``, if it is not beside the model.
        max_length: tokens to keep of an example, or of a window; None is the task's own or what the model has
            positions for.
        strict: a missing kernel is an error instead of a warning.
        library: False runs a compiled model's function bodies in plain ONNX Runtime.
        progress: called with (sequences done, sequences in all).

    Raises:
        BqcError: the model, its tokenizer or the rows cannot be read, the model's head does not fit the task
            (another kind, number or order of classes), or ``bqc[eval]`` is not installed.
    """
    if isinstance(task, str):
        task = find_task(task)
    for module in ("tokenizers", "scipy.stats", "sklearn.metrics"):
        require(module, "eval")
    running = session(path, strict=strict, threads=threads, library=library)
    encoder = TextEncoder(
        tokenizer or Path(path).parent, max_length or EncoderInputs.of(running).sequence, task.max_length
    )
    predict = Predictor(running, encoder, batch_size, progress, task.kind)
    config = read_json(Path(path).with_name("config.json"))
    proven = False
    if predict.head.embeds:
        task = _embedding_task(task)
    else:
        task, proven = task.fit(config, predict.width)
    examples = load_examples(task, data, split).head(limit)
    if predict.head.embeds:
        count, predictions = 2 * len(examples), _similarities(predict, encoder, examples)
        metrics = task.score(examples, predictions)
    else:
        features = task.features(examples, encoder)
        outputs = predict(features.encodings)
        count, metrics = len(features), _score(task, examples, features, outputs, proven)
    return EvalResult(
        model=str(path),
        task=task.name,
        split=split,
        metrics=metrics,
        examples=len(examples),
        features=count,
        seconds=predict.seconds,
        examples_per_second=len(examples) / predict.seconds,
        head=predict.head.kind,
        labels_checked=proven,
        max_length=encoder.max_length,
        batch_size=batch_size,
        threads=threads,
    )


def _score(
    task: Task, examples: Examples, features: Features, outputs: Sequence[Floats], proven: bool
) -> dict[str, float]:
    predictions = task.predictions(examples, features, outputs)
    metrics = task.score(examples, predictions)
    if isinstance(task, SentenceTask) and task.order_shows and task.labels and not proven:
        _check_permuted(task, np.asarray(examples.labels), np.asarray(predictions))
    return metrics


def _embedding_task(task: Task) -> Task:
    if not (isinstance(task, SentenceTask) and task.pair and not task.labels):
        raise BqcError(
            f"an embedding model is scored by the similarity of pairs; {task.title} needs a classifier"
        )
    return task if task.regression else task.fit({}, 1)[0]


def _similarities(predict: Predictor, encoder: TextEncoder, examples: Examples) -> npt.NDArray[np.float64]:
    """Cosine of the two embeddings of every pair, float64 ``[rows]``; equal texts are run once."""
    distinct = list(dict.fromkeys(text for pair in examples.texts for text in pair))
    vectors = np.stack(predict(encoder.encode([(text,) for text in distinct]))).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    where = {text: row for row, text in enumerate(distinct)}
    first, second = (vectors[[where[pair[side]] for pair in examples.texts]] for side in (0, 1))
    return np.asarray((first * second).sum(axis=1))


def _check_permuted(
    task: SentenceTask, labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64]
) -> None:
    """Raise BqcError if other names for the model's classes would fit the labels far better."""
    if len(labels) < _ENOUGH:
        return
    confusion = np.zeros((len(task.labels), len(task.labels)))
    np.add.at(confusion, (predictions, labels), 1)
    _, renamed = require("scipy.optimize", "eval").linear_sum_assignment(-confusion)
    now, then = (
        score(("matthews",), labels, found)["matthews"] for found in (predictions, renamed[predictions])
    )
    if then - now > _PERMUTED:
        raise BqcError(
            f"predictions run against the labels (Matthews correlation {now:.2f}): its classes "
            f"are in another order than {task.title}'s ({', '.join(task.labels)}); "
            "say so in config.json's id2label"
        )

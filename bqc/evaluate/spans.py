"""Tasks that answer a question with a span of its context, as SQuAD 1.1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.labels import output_count
from bqc.evaluate.task import Examples, Features, Floats, Items, Task
from bqc.evaluate.tokens import TextEncoder

__all__ = ["Answers", "SpanTask", "exact_match", "normalize_answer", "token_f1"]

STRIDE = 128
"""Tokens that two windows of a context share."""
CANDIDATES = 20
"""Best starts, and best ends, of a window that are paired."""
LONGEST_ANSWER = 30
"""Tokens of the longest answer. Both numbers are those of BERT's run_squad.py."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answers:
    """The right answers to a question.

    Attributes:
        texts: each as written in the context.
        starts: the character at which each begins.
    """

    texts: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class SpanTask(Task):
    """Extractive question answering; a context longer than the model reads is cut into overlapping windows."""

    kind: ClassVar[str] = "span"
    max_length: ClassVar[int] = 384

    def fit(self, config: Mapping[str, Any], width: int) -> tuple[SpanTask, bool]:
        if width != 2:
            raise BqcError(
                f"the model has {output_count(width)} a token and {self.title} needs 2: start and end"
            )
        return self, True

    def features(self, examples: Examples, encoder: TextEncoder) -> Features:
        encodings, owners, anchors = encoder.encode_windows(examples.texts, STRIDE)
        targets = [
            _target(examples.labels[owner], offsets) for owner, offsets in zip(owners, anchors, strict=True)
        ]
        return Features(encodings, owners, np.asarray(targets, dtype=np.int64).reshape(-1, 2), anchors)

    def predictions(self, examples: Examples, features: Features, outputs: Sequence[Floats]) -> list[str]:
        """The best span of any window of each question, as text."""
        best = [(-np.inf, "")] * len(examples)
        for owner, offsets, scores in zip(features.owners, features.anchors, outputs, strict=True):
            if not np.isfinite(scores).all():
                raise BqcError("the model's output holds NaN or infinity, there is nothing to score")
            found = _best_span(scores, offsets)
            if found is not None and found[0] > best[owner][0]:
                value, first, last = found
                best[owner] = value, examples.texts[owner][1][offsets[first, 0] : offsets[last, 1]]
        return [text for _, text in best]

    def measure(self, examples: Examples, predictions: Items) -> dict[str, float]:
        """Exact match and token F1 of SQuAD 1.1, each against the answer that fits best."""
        functions = {"exact_match": exact_match, "f1": token_f1}
        return {
            name: float(
                np.mean(
                    [
                        max(functions[name](text, right) for right in answers.texts)
                        for text, answers in zip(predictions, examples.labels, strict=True)
                    ]
                )
            )
            for name in self.metrics
        }


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and extra space, as evaluate-v1.1.py has it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1.0 if the two are equal after `normalize_answer`, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words that both have, in [0, 1]."""
    found, right = normalize_answer(prediction).split(), normalize_answer(answer).split()
    common = sum((Counter(found) & Counter(right)).values())
    return 2 * common / (len(found) + len(right)) if common else 0.0


def _target(answers: Answers, offsets: npt.NDArray[np.int64]) -> tuple[int, int]:
    """First and last token of the first answer; (0, 0), the [CLS] token, if it is not all in the window."""
    begin, end = answers.starts[0], answers.starts[0] + len(answers.texts[0])
    context = offsets[:, 0] >= 0
    if not context.any() or begin < offsets[context, 0].min() or end > offsets[context, 1].max():
        return 0, 0
    touched = np.flatnonzero(context & (offsets[:, 1] > begin) & (offsets[:, 0] < end))
    return (int(touched[0]), int(touched[-1])) if len(touched) else (0, 0)


def _best_span(scores: Floats, offsets: npt.NDArray[np.int64]) -> tuple[float, int, int] | None:
    """(score, first token, last token) of the best span inside the context; None if there is none."""
    context = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(context):
        return None
    starts, ends = (
        context[np.argsort(-scores[context, side], kind="stable")[:CANDIDATES]] for side in (0, 1)
    )
    length = ends[None, :] - starts[:, None] + 1
    total = scores[starts, 0][:, None] + scores[ends, 1][None, :]
    total = np.where((length > 0) & (length <= LONGEST_ANSWER), total, -np.inf)
    row, column = np.unravel_index(int(total.argmax()), total.shape)
    value = float(total[row, column])
    return (value, int(starts[row]), int(ends[column])) if np.isfinite(value) else None

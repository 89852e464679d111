"""Tasks that give one text, or a pair, a class or a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.labels import check_labels, class_names
from bqc.evaluate.metrics import score
from bqc.evaluate.task import Examples, Features, Floats, Items, Task
from bqc.evaluate.tokens import TextEncoder

__all__ = ["SentenceTask"]


@dataclass(frozen=True)
class SentenceTask(Task):
    """Classification or regression of one text or a pair.

    Attributes:
        pair: whether an example is two texts.
        regression: whether labels are numbers; ``labels`` is empty then.
        synonyms: other names for the classes in use among published models, name -> name in ``labels``.
        order_shows: whether a good model's predictions go with the labels even on unseen rows, so that predictions
            against them mean permuted outputs.
    """

    kind: ClassVar[str] = "sentence"

    pair: bool = False
    regression: bool = False
    synonyms: Mapping[str, str] = field(default_factory=dict)
    order_shows: bool = True

    @property
    def loss(self) -> str:
        return "mse" if self.regression else "cross-entropy"

    def fit(self, config: Mapping[str, Any], width: int) -> tuple[SentenceTask, bool]:
        if not (self.labels or self.regression):
            # The user's own file: its classes are those of the model, and a single output is a score.
            return _with_classes(self, config, width), True
        return self, check_labels(self, config, width)

    def features(self, examples: Examples, encoder: TextEncoder) -> Features:
        encodings = encoder.encode(examples.texts)
        return Features(encodings, np.arange(len(encodings)), np.asarray(examples.labels))

    def predictions(
        self, examples: Examples, features: Features, outputs: Sequence[Floats]
    ) -> npt.NDArray[np.generic]:
        """int64 ``[rows]`` classes or float32 ``[rows]`` scores.

        Raises:
            BqcError: an output is not a finite number.
        """
        logits = np.stack(list(outputs))
        if not np.isfinite(logits).all():
            raise BqcError("the model's output holds NaN or infinity, there is nothing to score")
        return np.asarray(logits[:, 0] if self.regression else logits.argmax(axis=1))

    def measure(self, examples: Examples, predictions: Items) -> dict[str, float]:
        return score(self.metrics, np.asarray(examples.labels), np.asarray(predictions))


def _with_classes(task: SentenceTask, config: Mapping[str, Any], width: int) -> SentenceTask:
    if width == 1:
        return replace(task, regression=True, metrics=task.metrics or ("spearman", "pearson"))
    return replace(task, labels=class_names(config, width), metrics=task.metrics or ("accuracy", "macro_f1"))

"""Tasks that give every word of a sentence a tag; entities are scored, not tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from bqc.errors import BqcError
from bqc.evaluate.extras import require
from bqc.evaluate.labels import class_names, generic, output_count
from bqc.evaluate.task import IGNORED, Examples, Features, Floats, Items, Task
from bqc.evaluate.tokens import TextEncoder

__all__ = ["OUTSIDE", "TaggingTask"]

OUTSIDE = "O"
"""The tag of a word outside any entity."""


@dataclass(frozen=True)
class TaggingTask(Task):
    """Entities as IOB2 tags on words. A word's tag is predicted, and trained, at its first token."""

    kind: ClassVar[str] = "tagging"
    max_length: ClassVar[int] = 256

    def fit(self, config: Mapping[str, Any], width: int) -> tuple[TaggingTask, bool]:
        """Tags have no natural order, so a model that names its own is taken at its word."""
        names = class_names(config, width)
        if all(generic(name, index) for index, name in enumerate(names)):
            if width != len(self.labels):
                raise BqcError(
                    f"the model has {output_count(width)} a token and {self.title} needs {len(self.labels)}: "
                    f"{', '.join(self.labels)}"
                )
            return self, False
        foreign = [name for name in names if name not in self.labels]
        if foreign or len(set(names)) < width or OUTSIDE not in names:
            raise BqcError(
                f"config.json gives the tags {', '.join(names)}, not those of {self.title} "
                f"({', '.join(self.labels)})"
            )
        # A tag the model lacks keeps an index beyond its outputs: never predicted, still counted as a miss.
        return replace(self, labels=(*names, *(tag for tag in self.labels if tag not in names))), True

    def features(self, examples: Examples, encoder: TextEncoder) -> Features:
        encodings, anchors = encoder.encode_words(examples.texts)
        targets = []
        for encoding, first, tags in zip(encodings, anchors, examples.labels, strict=True):
            target = np.full(len(encoding.ids), IGNORED, dtype=np.int64)
            target[first[first >= 0]] = np.asarray(tags)[first >= 0]
            targets.append(target)
        return Features(encodings, np.arange(len(encodings)), targets, anchors)

    def predictions(
        self, examples: Examples, features: Features, outputs: Sequence[Floats]
    ) -> list[list[str]]:
        """A tag name a word; `OUTSIDE` for words that were cut off."""
        found = []
        for first, logits in zip(features.anchors, outputs, strict=True):
            if not np.isfinite(logits).all():
                raise BqcError("the model's output holds NaN or infinity, there is nothing to score")
            best = logits.argmax(axis=1)
            found.append([self.labels[best[token]] if token >= 0 else OUTSIDE for token in first])
        return found

    def measure(self, examples: Examples, predictions: Items) -> dict[str, float]:
        """Entity F1, precision and recall as conlleval counts them, through seqeval."""
        metrics = require("seqeval.metrics", "eval")
        labels, predictions = self.named(examples, predictions)
        functions = {
            "f1": metrics.f1_score,
            "precision": metrics.precision_score,
            "recall": metrics.recall_score,
        }
        return {name: float(functions[name](labels, predictions, zero_division=0)) for name in self.metrics}

    def named(self, examples: Examples, predictions: Items) -> tuple[list[list[str]], Items]:
        """Tag names a sentence, both."""
        return [[self.labels[tag] for tag in tags] for tags in examples.labels], predictions

"""The result of an analysis: a score for every part and format, as a file and as a ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bqc.errors import BqcError
from bqc.evaluate.rows import open_text
from bqc.sensitivity.spectrum import order

__all__ = ["Score", "Sensitivity"]

VERSION = 1


@dataclass(frozen=True)
class Score:
    """Scores of one part.

    Attributes:
        part: ``weight`` or ``activation``.
        key: ``layer:role``.
        formats: format -> score; the larger, the more sensitive.
        also: other keys of the same weight.
        details: what the metric found on the way (eigenvalues, a trace).
        seconds: that it took.
    """

    part: str
    key: str
    formats: dict[str, float]
    also: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Sensitivity:
    """Scores of a model by one metric.

    Attributes:
        metric: its name.
        model: SHA-256 of the model file.
        formats: the formats, in the order they were asked for.
        sample: what the model was run on, in words; empty for metrics without data.
        options: of the metric.
        scores: one a part, in graph order.
        weights: `weights_digest` of the model; empty in files of earlier versions.
        question: digest of all that the scores depend on; empty in files of earlier versions.
    """

    metric: str
    model: str
    formats: tuple[str, ...]
    sample: str
    options: dict[str, Any]
    scores: tuple[Score, ...]
    weights: str = ""
    question: str = ""

    def ranked(self, part: str, fmt: str) -> list[Score]:
        """Scores of weights or activations in one format, the most sensitive first."""
        found = [score for score in self.scores if score.part == part and fmt in score.formats]
        return [found[index] for index in order([score.formats[fmt] for score in found])]

    def values(self, part: str, fmt: str) -> dict[str, float]:
        """``layer:role`` -> score in one format, keys of shared weights included."""
        return {
            key: score.formats[fmt]
            for score in self.scores
            if score.part == part and fmt in score.formats
            for key in (score.key, *score.also)
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``bqc_sensitivity`` is the version of the layout."""
        return {"bqc_sensitivity": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Sensitivity:
        """Inverse of `to_dict`.

        Raises:
            BqcError: it is not such a file; the message begins with ``where``.
        """
        if not isinstance(data, Mapping) or data.get("bqc_sensitivity") != VERSION:
            raise BqcError(f"{where}: not scores that bqc sensitivity wrote ('bqc_sensitivity': {VERSION})")
        try:
            scores = tuple(Score(**item) for item in data["scores"])
            found = cls(
                metric=str(data["metric"]),
                model=str(data["model"]),
                formats=tuple(map(str, data["formats"])),
                sample=str(data["sample"]),
                options=dict(data["options"]),
                scores=scores,
                weights=str(data.get("weights", "")),
                question=str(data.get("question", "")),
            )
            finite = all(np.isfinite(value) for score in scores for value in score.formats.values())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BqcError(f"{where}: damaged scores ({type(error).__name__}: {error})") from None
        if not finite:
            raise BqcError(f"{where}: damaged scores (one is not a finite number)")
        return found

    @classmethod
    def read(cls, path: Path) -> Sensitivity:
        """Read a file of scores. Raises BqcError if it is none."""
        try:
            data = json.loads(open_text(path))
        except ValueError as error:
            raise BqcError(f"{path}: not JSON ({error})") from None
        return cls.from_dict(data, str(path))

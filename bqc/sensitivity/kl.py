"""``kl``: how far the predicted distribution moves when one part is quantised. Data without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import Metric
from bqc.sensitivity.parts import ACTIVATION, WEIGHT, Part
from bqc.sensitivity.subject import Floats

__all__ = ["Kl", "mean_divergence"]


class Kl(Metric):
    """Mean of KL(float || quantised) over examples, or over the tokens of a tagger, in nats."""

    name: ClassVar[str] = "kl"
    kinds: ClassVar[tuple[str, ...]] = (WEIGHT, ACTIVATION)
    needs: ClassVar[str] = "inputs"

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        base = self.subject.outputs()
        if base[0].shape[-1] < 2:
            raise BqcError("kl compares classes, and the model has one output: use mse")
        sample = self.subject.sample
        over_tokens = sample is not None and sample.task is not None and sample.task.kind == "span"
        axis = 0 if over_tokens else -1
        return {str(fmt): mean_divergence(base, self.subject.outputs(part, fmt), axis) for fmt in formats}, {}


def mean_divergence(base: Sequence[Floats], other: Sequence[Floats], axis: int = -1) -> float:
    """Mean KL divergence of softmax(other) from softmax(base) along ``axis``."""
    values = [_divergence(a, b, axis) for a, b in zip(base, other, strict=True)]
    return float(np.concatenate([value.ravel() for value in values]).mean())


def _divergence(base: Floats, other: Floats, axis: int) -> npt.NDArray[np.float64]:
    p, q = _log_softmax(base, axis), _log_softmax(other, axis)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=axis))


def _log_softmax(logits: Floats, axis: int) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))

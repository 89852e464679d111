"""``fisher``: squared gradients times squared weight error. Data with labels, one backward pass an example."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import GradientMetric
from bqc.sensitivity.parts import Part, weight_parts

__all__ = ["Fisher"]


class Fisher(GradientMetric):
    """``sum(F * (W - Q(W))^2)``, where F is the mean over examples of the squared gradient of the loss.

    F is the diagonal of the empirical Fisher matrix, which stands for the Hessian's (LeCun et al., Optimal Brain
    Damage, 1990, with the squared gradient for the second derivative).
    """

    name: ClassVar[str] = "fisher"

    @cached_property
    def _squares(self) -> dict[str, npt.NDArray[np.float64]]:
        names = [part.initializer for part in weight_parts(self.subject.model)]
        return self.losses.mean_squared_gradients(names)

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        fisher = self._squares[part.initializer]
        scores = {str(fmt): float((fisher * self.subject.squared_error(part, fmt)).sum()) for fmt in formats}
        return scores, {"fisher": float(fisher.sum())}

"""``mse``: what the outputs lose when one part is quantised. Data without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import Metric
from bqc.sensitivity.parts import ACTIVATION, WEIGHT, Part
from bqc.sensitivity.subject import Floats

__all__ = ["Mse", "mean_squared_difference"]


class Mse(Metric):
    """Mean squared difference of the outputs from the float model's, over all their elements."""

    name: ClassVar[str] = "mse"
    kinds: ClassVar[tuple[str, ...]] = (WEIGHT, ACTIVATION)
    needs: ClassVar[str] = "inputs"

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        base = self.subject.outputs()
        return {
            str(fmt): mean_squared_difference(base, self.subject.outputs(part, fmt)) for fmt in formats
        }, {}


def mean_squared_difference(base: Sequence[Floats], other: Sequence[Floats]) -> float:
    """Over the elements of all arrays, in float64."""
    total = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(base, other, strict=True))
    return total / sum(a.size for a in base)

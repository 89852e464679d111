"""``hessian-trace``: the mean curvature of the loss at a weight, by Hutchinson's estimate. Data with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import GradientMetric
from bqc.sensitivity.parts import Part
from bqc.sensitivity.spectrum import rademacher, trace

__all__ = ["HessianTrace"]

PROBES = 3
"""Random vectors a subset."""


class HessianTrace(GradientMetric):
    """``trace / n * sum((W - Q(W))^2)`` of a weight of n elements, the trace being the mean over random subsets.

    Source: HAWQ-V2 (arXiv 1911.03852), equation 8.
    """

    name: ClassVar[str] = "hessian-trace"
    in_subsets: ClassVar[bool] = True

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        names, size = [part.initializer], self.losses.size([part.initializer])
        random = np.random.default_rng(self.options.seed)
        traces = [
            trace(self.losses.hessian(names, rows), rademacher(PROBES, size, random))
            for rows in self.options.draw(self.losses.count)
        ]
        mean = float(np.mean(traces))
        scores = {
            str(fmt): mean / size * float(self.subject.squared_error(part, fmt).sum()) for fmt in formats
        }
        return scores, {"trace": mean, "traces": traces}

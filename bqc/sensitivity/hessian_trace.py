"""``hessian-trace``: the mean curvature of the loss at a weight, by Hutchinson's estimate. Data with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import HessianMetric
from bqc.sensitivity.parts import Part
from bqc.sensitivity.spectrum import rademacher, trace

__all__ = ["HessianTrace"]

PROBES = 3
"""Random vectors a subset."""


class HessianTrace(HessianMetric):
    """``trace / n * sum((W - Q(W))^2)`` of a weight of n elements, the trace being the mean over random subsets.

    Source: HAWQ-V2 (arXiv 1911.03852), equation 8.
    """

    name: ClassVar[str] = "hessian-trace"

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        found = self.found(part)
        mean = found["trace"] / self.subject.weight(part).size
        scores = {str(fmt): mean * float(self.subject.squared_error(part, fmt).sum()) for fmt in formats}
        return scores, found

    def measure(self, blocks: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, Any]]:
        """The trace, and its estimate from every subset."""
        sizes = [self.losses.size(block) for block in blocks]
        randoms = [np.random.default_rng(self.options.seed) for _ in blocks]
        traces: list[list[float]] = [[] for _ in blocks]
        for rows in self.options.draw(self.losses.count):
            for at, product in enumerate(self.losses.hessians(blocks, rows)):
                traces[at].append(trace(product, rademacher(PROBES, sizes[at], randoms[at])))
        return {
            block: {"trace": float(np.mean(found)), "traces": found}
            for block, found in zip(blocks, traces, strict=True)
        }

"""``hessian-trace``: the mean curvature of the loss at a weight, by Hutchinson's estimate. Data with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bqc.formats import BlockShift
from bqc.sensitivity.gradients import Losses
from bqc.sensitivity.options import Options
from bqc.sensitivity.parts import WEIGHT, Part
from bqc.sensitivity.spectrum import rademacher, trace
from bqc.sensitivity.subject import Subject

__all__ = ["HessianTrace"]

PROBES = 3
"""Random vectors a subset."""


class HessianTrace:
    """``trace / n * sum((W - Q(W))^2)`` of a weight of n elements, the trace being the mean over random subsets.

    Source: HAWQ-V2 (arXiv 1911.03852), equation 8.
    """

    name: ClassVar[str] = "hessian-trace"
    kinds: ClassVar[tuple[str, ...]] = (WEIGHT,)
    needs: ClassVar[str] = "labels"

    def __init__(self, subject: Subject, options: Options) -> None:
        self._subject, self._options = subject, options
        self._losses: Losses | None = None

    def __call__(self, part: Part, formats: Sequence[BlockShift]) -> tuple[dict[str, float], dict[str, Any]]:
        if self._losses is None:
            self._losses = Losses(self._subject)
        names, size = [part.initializer], self._losses.size([part.initializer])
        random = np.random.default_rng(self._options.seed)
        traces = [
            trace(self._losses.hessian(names, rows), rademacher(PROBES, size, random))
            for rows in self._options.draw(len(self._subject.sample.features))  # type: ignore[union-attr]
        ]
        mean = float(np.mean(traces))
        scores = {
            str(fmt): mean / size * float(self._subject.squared_error(part, fmt).sum()) for fmt in formats
        }
        return scores, {"trace": mean, "traces": traces}

"""``hessian``: the largest eigenvalue of the loss's Hessian at a weight, as Q-BERT ranks layers. Data with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import GradientMetric
from bqc.sensitivity.options import Options
from bqc.sensitivity.parts import Part
from bqc.sensitivity.spectrum import Vector, top_eigenvalue, variability
from bqc.sensitivity.subject import Subject

__all__ = ["Hessian"]


class Hessian(GradientMetric):
    """``Omega * sum((W - Q(W))^2)`` with Omega = |mean| + std of the top eigenvalue over random subsets of the data.

    Omega alone is Q-BERT's sensitivity (arXiv 1909.05840, section 3.1), which knows no format; times the squared error
    of the weight it bounds the second-order change of the loss, as HAWQ (arXiv 1905.03696) orders layers. The block
    is one weight, or every parameter of a layer (``block="layer"``, as Q-BERT has it).
    """

    name: ClassVar[str] = "hessian"
    in_subsets: ClassVar[bool] = True

    def __init__(self, subject: Subject, options: Options) -> None:
        super().__init__(subject, options)
        self._blocks: dict[tuple[str, ...], dict[str, Any]] = {}

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        names = [part.initializer]
        if self.options.block == "layer":
            names = self.losses.parameters_of(part.layer)
        found = self._blocks.setdefault(tuple(names), {})
        if not found:
            found.update(self._eigenvalues(names))
        scores = {
            str(fmt): found["omega"] * float(self.subject.squared_error(part, fmt).sum()) for fmt in formats
        }
        return scores, found

    def _eigenvalues(self, names: Sequence[str]) -> dict[str, Any]:
        random = np.random.default_rng(self.options.seed)
        # A subset starts from the eigenvector of the one before: they differ little, and it converges sooner.
        vector: Vector = random.standard_normal(self.losses.size(names))
        values, products = [], 0
        for rows in self.options.draw(self.losses.count):
            value, vector, taken = top_eigenvalue(
                self.losses.hessian(names, rows), vector, self.options.iterations, self.options.tolerance
            )
            values.append(value)
            products += taken
        return {"omega": variability(values), "eigenvalues": values, "products": products}

"""``hessian``: the largest eigenvalue of the loss's Hessian at a weight, as Q-BERT ranks layers. Data with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import HessianMetric
from bqc.sensitivity.parts import Part
from bqc.sensitivity.spectrum import Vector, top_eigenvalue, variability

__all__ = ["Hessian"]


class Hessian(HessianMetric):
    """``Omega * sum((W - Q(W))^2)`` with Omega = |mean| + std of the top eigenvalue over random subsets of the data.

    Omega alone is Q-BERT's sensitivity (arXiv 1909.05840, section 3.1), which knows no format; times the squared error
    of the weight it bounds the second-order change of the loss, as HAWQ (arXiv 1905.03696) orders layers. The block
    is one weight, or every parameter of a layer (``block="layer"``, as Q-BERT has it).
    """

    name: ClassVar[str] = "hessian"

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        found = self.found(part)
        scores = {
            str(fmt): found["omega"] * float(self.subject.squared_error(part, fmt).sum()) for fmt in formats
        }
        return scores, found

    def block_of(self, part: Part) -> tuple[str, ...]:
        """A part's own weight, or every parameter of its layer."""
        if self.options.block == "layer":
            return tuple(self.losses.parameters_of(part.layer))
        return super().block_of(part)

    def measure(self, blocks: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, Any]]:
        """Omega, the top eigenvalue of every subset, and the products taken."""
        # A subset starts from the eigenvector of the one before: they differ little, and it converges sooner.
        vectors: list[Vector] = [
            np.random.default_rng(self.options.seed).standard_normal(self.losses.size(block))
            for block in blocks
        ]
        values: list[list[float]] = [[] for _ in blocks]
        products = [0] * len(blocks)
        for rows in self.options.draw(self.losses.count):
            for at, product in enumerate(self.losses.hessians(blocks, rows)):
                value, vectors[at], taken = top_eigenvalue(
                    product, vectors[at], self.options.iterations, self.options.tolerance
                )
                values[at].append(value)
                products[at] += taken
        return {
            block: {"omega": variability(found), "eigenvalues": found, "products": taken}
            for block, found, taken in zip(blocks, values, products, strict=True)
        }

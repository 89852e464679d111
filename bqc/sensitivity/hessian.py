"""``hessian``: the largest eigenvalue of the loss's Hessian at a weight, as Q-BERT ranks layers. Data with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bqc.formats import BlockShift
from bqc.sensitivity.gradients import Losses
from bqc.sensitivity.options import Options
from bqc.sensitivity.parts import WEIGHT, Part
from bqc.sensitivity.spectrum import Vector, top_eigenvalue, variability
from bqc.sensitivity.subject import Subject

__all__ = ["Hessian"]


class Hessian:
    """``Omega * sum((W - Q(W))^2)`` with Omega = |mean| + std of the top eigenvalue over random subsets of the data.

    Omega alone is Q-BERT's sensitivity (arXiv 1909.05840, section 3.1), which knows no format; times the squared error
    of the weight it bounds the second-order change of the loss, as HAWQ (arXiv 1905.03696) orders layers. The block
    is one weight, or every parameter of a layer (``block="layer"``, as Q-BERT has it).
    """

    name: ClassVar[str] = "hessian"
    kinds: ClassVar[tuple[str, ...]] = (WEIGHT,)
    needs: ClassVar[str] = "labels"

    def __init__(self, subject: Subject, options: Options) -> None:
        self._subject, self._options = subject, options
        self._losses: Losses | None = None
        self._blocks: dict[tuple[str, ...], dict[str, Any]] = {}

    def __call__(self, part: Part, formats: Sequence[BlockShift]) -> tuple[dict[str, float], dict[str, Any]]:
        if self._losses is None:
            self._losses = Losses(self._subject)
        names = [part.initializer]
        if self._options.block == "layer":
            names = self._losses.parameters_of(part.layer, self._subject)
        found = self._blocks.setdefault(tuple(names), {})
        if not found:
            found.update(self._eigenvalues(self._losses, names))
        scores = {
            str(fmt): found["omega"] * float(self._subject.squared_error(part, fmt).sum()) for fmt in formats
        }
        return scores, found

    def _eigenvalues(self, losses: Losses, names: Sequence[str]) -> dict[str, Any]:
        random = np.random.default_rng(self._options.seed)
        # A subset starts from the eigenvector of the one before: they differ little, and it converges sooner.
        vector: Vector = random.standard_normal(losses.size(names))
        values, products = [], 0
        for rows in self._options.draw(len(self._subject.sample.features)):  # type: ignore[union-attr]
            value, vector, taken = top_eigenvalue(
                losses.hessian(names, rows), vector, self._options.iterations, self._options.tolerance
            )
            values.append(value)
            products += taken
        return {"omega": variability(values), "eigenvalues": values, "products": products}

"""``fisher``: squared gradients times squared weight error. Data with labels, one backward pass an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bqc.formats import BlockShift
from bqc.sensitivity.gradients import Losses
from bqc.sensitivity.parts import WEIGHT, Part, weight_parts
from bqc.sensitivity.subject import Subject

__all__ = ["Fisher"]


class Fisher:
    """``sum(F * (W - Q(W))^2)``, where F is the mean over examples of the squared gradient of the loss.

    F is the diagonal of the empirical Fisher matrix, which stands for the Hessian's (LeCun et al., Optimal Brain
    Damage, 1990, with the squared gradient for the second derivative).
    """

    name: ClassVar[str] = "fisher"
    kinds: ClassVar[tuple[str, ...]] = (WEIGHT,)
    needs: ClassVar[str] = "labels"

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._squares: dict[str, npt.NDArray[np.float64]] | None = None

    def __call__(self, part: Part, formats: Sequence[BlockShift]) -> tuple[dict[str, float], dict[str, Any]]:
        if self._squares is None:
            names = [one.initializer for one in weight_parts(self._subject.model)]
            self._squares = Losses(self._subject).mean_squared_gradients(names)
        fisher = self._squares[part.initializer]
        scores = {str(fmt): float((fisher * self._subject.squared_error(part, fmt)).sum()) for fmt in formats}
        return scores, {"fisher": float(fisher.sum())}

"""``weight-error``: relative squared error of the weight itself. No data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.metric import Metric
from bqc.sensitivity.parts import Part

__all__ = ["WeightError"]


class WeightError(Metric):
    """``sum((W - Q(W))^2) / sum(W^2)``: comparable between weights of different size."""

    name: ClassVar[str] = "weight-error"
    needs: ClassVar[str] = "nothing"

    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        weight = self.subject.weight(part)
        matrix = weight.T if part.axis == 0 else weight
        return {str(fmt): fmt.weight_error(matrix) for fmt in formats}, {}

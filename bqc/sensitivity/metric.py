"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.gradients import Losses
from bqc.sensitivity.options import Options
from bqc.sensitivity.parts import WEIGHT, Part
from bqc.sensitivity.subject import Subject

__all__ = ["GradientMetric", "Metric"]


class Metric(ABC):
    """Scores of one part at a time.

    Args:
        subject: the model, with the sample that the metric needs.
        options: numbers of examples and the like.
    """

    name: ClassVar[str]
    """What the user types."""
    kinds: ClassVar[tuple[str, ...]] = (WEIGHT,)
    """The kinds of parts that it scores."""
    needs: ClassVar[str]
    """``nothing``, ``inputs`` or ``labels``."""
    in_subsets: ClassVar[bool] = False
    """Whether it takes ``options.subsets`` subsets of the examples, not one sample."""

    def __init__(self, subject: Subject, options: Options) -> None:
        self.subject = subject
        self.options = options

    @abstractmethod
    def __call__(
        self, part: Part, formats: Sequence[WeightFormat]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Format -> score, the larger the more sensitive; and what was found on the way, as JSON values."""


class GradientMetric(Metric):
    """A metric of the loss's derivatives."""

    needs: ClassVar[str] = "labels"

    @cached_property
    def losses(self) -> Losses:
        """The loss on the subject's sample; torch is not loaded before it is asked for."""
        return Losses(self.subject)

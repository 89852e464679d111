"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from bqc.formats.stored import WeightFormat
from bqc.sensitivity.gradients import Losses
from bqc.sensitivity.options import Options
from bqc.sensitivity.parts import WEIGHT, Part, weight_parts
from bqc.sensitivity.subject import Subject

__all__ = ["GradientMetric", "HessianMetric", "Metric"]


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


class HessianMetric(GradientMetric):
    """A metric of blocks of the Hessian, over random subsets of the examples.

    The blocks of a layer are measured together, as the gradient's graph of a subset serves them all: the first part of
    a layer takes the time of all of them.
    """

    in_subsets: ClassVar[bool] = True

    def __init__(self, subject: Subject, options: Options) -> None:
        super().__init__(subject, options)
        self._found: dict[tuple[str, ...], dict[str, Any]] = {}

    def found(self, part: Part) -> dict[str, Any]:
        """What was measured of a part's block."""
        block = self.block_of(part)
        if block not in self._found:
            parts = weight_parts(self.subject.model)
            layer = [self.block_of(one) for one in parts if one.layer == part.layer]
            self._found.update(self.measure(list(dict.fromkeys(layer))))
        return self._found[block]

    def block_of(self, part: Part) -> tuple[str, ...]:
        """Names of the weights of a part's block: its own."""
        return (part.initializer,)

    @abstractmethod
    def measure(self, blocks: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, Any]]:
        """What `found` returns of some blocks, as JSON values."""

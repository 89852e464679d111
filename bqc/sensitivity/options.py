"""What the metrics that take gradients can be asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS", "Options"]

BLOCKS = ("role", "layer")


@dataclass(frozen=True)
class Options:
    """Options; the defaults follow Q-BERT but for the size of a subset.

    Attributes:
        examples: examples a subset; metrics that take one sample take as many.
        subsets: random subsets that an eigenvalue or a trace is taken over.
        iterations: products with the Hessian a subset, at most.
        tolerance: relative change of the eigenvalue that ends the iteration.
        block: ``role``: the Hessian's block of one weight; ``layer``: of every parameter of its layer.
        seed: of everything random.
    """

    examples: int = 128
    subsets: int = 10
    iterations: int = 30
    tolerance: float = 0.01
    block: str = "role"
    seed: int = 0

    def draw(self, total: int) -> Iterator[npt.NDArray[np.int64]]:
        """Rows of each subset out of ``total``: disjoint where there are enough."""
        random = np.random.default_rng(self.seed)
        if total >= self.examples * self.subsets:
            shuffled = random.permutation(total)
            for start in range(0, self.examples * self.subsets, self.examples):
                yield shuffled[start : start + self.examples]
            return
        for _ in range(self.subsets):
            yield random.choice(total, min(self.examples, total), replace=False)

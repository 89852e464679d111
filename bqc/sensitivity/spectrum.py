"""The largest eigenvalue and the trace of a symmetric matrix that is only known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Product", "order", "rademacher", "top_eigenvalue", "trace", "variability"]

Vector = npt.NDArray[np.float64]
Product = Callable[[Vector], Vector]
"""v -> H v, both ``[n]``."""

_TINY = 1e-6
"""What Q-BERT's code adds to norms."""


def top_eigenvalue(
    product: Product, start: Vector, iterations: int = 30, tolerance: float = 0.01
) -> tuple[float, Vector, int]:
    """The eigenvalue of largest magnitude, by power iteration.

    Args:
        product: the matrix.
        start: ``[n]``, not orthogonal to the eigenvector: a random one, or that of a similar matrix.
        iterations: products at most.
        tolerance: stop when the eigenvalue changes by less than this part of it.

    Returns:
        the eigenvalue with its sign, its eigenvector ``[n]`` of length 1, and the products taken.
        Source: Q-BERT (arXiv 1909.05840), section 3.1.
    """
    vector = start / (np.linalg.norm(start) + _TINY)
    value, taken = 0.0, 0
    for taken in range(1, iterations + 1):
        image = product(vector)
        before, value = value, float(vector @ image)
        vector = image / (np.linalg.norm(image) + _TINY)
        if taken > 1 and abs(value - before) <= tolerance * (abs(before) + _TINY):
            break
    return value, vector, taken


def trace(product: Product, probes: list[Vector]) -> float:
    """The trace, by Hutchinson's estimate: the mean of v^T H v over vectors of random signs.

    Source: Hutchinson, Commun. Stat. Simul. 18 (1989); HAWQ-V2 (arXiv 1911.03852) for layers of a network.
    """
    return float(np.mean([probe @ product(probe) for probe in probes]))


def rademacher(count: int, size: int, random: np.random.Generator) -> list[Vector]:
    """``count`` vectors ``[size]`` of independent +1 and -1."""
    return [random.choice(np.array([-1.0, 1.0]), size) for _ in range(count)]


def variability(eigenvalues: npt.ArrayLike) -> float:
    """Q-BERT's sensitivity of a block, |mean| + standard deviation of its eigenvalues over subsets of the data."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    return float(abs(values.mean()) + values.std())


def order(values: npt.ArrayLike) -> list[int]:
    """Indices by descending value; equal ones keep their order."""
    return [int(index) for index in np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")]

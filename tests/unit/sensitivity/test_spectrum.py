"""Eigenvalues and traces of matrices known by their products; Q-BERT's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from bqc.sensitivity.spectrum import order, rademacher, top_eigenvalue, trace, variability


def quadratic(spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    """A symmetric matrix of these eigenvalues in a random basis: the Hessian of x^T A x / 2."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum), len(spectrum))))
    return basis @ np.diag(spectrum) @ basis.T


@pytest.mark.parametrize("top", [10.0, -10.0])
def test_the_top_eigenvalue_of_a_known_spectrum(top: float) -> None:
    matrix = quadratic(np.asarray([top, *np.linspace(-5, 5, 39)]))
    start = np.random.default_rng(1).standard_normal(40)
    value, vector, taken = top_eigenvalue(lambda v: matrix @ v, start, iterations=30, tolerance=0.001)
    assert value == pytest.approx(top, rel=0.01)
    assert np.linalg.norm(matrix @ vector - top * vector) < 1
    assert 2 < taken < 30


def test_it_stops_at_one_percent_and_at_the_limit() -> None:
    matrix = quadratic(np.asarray([10.0, *np.linspace(0, 3, 39)]))
    start = np.random.default_rng(1).standard_normal(40)
    _, vector, taken = top_eigenvalue(lambda v: matrix @ v, start)
    assert taken < 12
    assert top_eigenvalue(lambda v: matrix @ v, start, iterations=3)[2] == 3
    value, _, warm = top_eigenvalue(lambda v: matrix @ v, vector)
    assert warm == 2  # from the eigenvector itself there is nothing left to do
    assert value == pytest.approx(10, rel=0.001)


def test_a_zero_matrix() -> None:
    value, _, taken = top_eigenvalue(lambda v: 0 * v, np.ones(5))
    assert (value, taken) == (0.0, 2)


def test_the_trace() -> None:
    spectrum = np.asarray([9.0, -4.0, *np.linspace(0, 3, 38)])
    matrix = quadratic(spectrum)
    probes = rademacher(400, 40, np.random.default_rng(2))
    assert {float(value) for value in probes[0]} == {-1.0, 1.0}
    assert trace(lambda v: matrix @ v, probes) == pytest.approx(spectrum.sum(), rel=0.03)
    diagonal = np.diag(spectrum)
    assert trace(lambda v: diagonal @ v, probes[:1]) == pytest.approx(spectrum.sum())


def test_variability_is_mean_and_deviation() -> None:
    assert variability([1.0, 3.0]) == 2 + 1
    assert variability([-1.0, -3.0]) == 2 + 1  # a negative mean is as far from flat
    assert variability([5.0, -5.0]) == 0 + 5  # nor does a mean of zero say that nothing varies


COLA = [6.67, 9.38, 14.55, 18.26, 18.81, 21.75, 16.43, 15.37, 25.82, 1.71, 0.80, 1.01]
NER = [18.22, 41.06, 36.46, 42.11, 54.43, 57.8, 71.77, 66.07, 50.38, 4.29, 9.8, 9.37]


def test_published_orders() -> None:
    """Layers by eigenvalue, as Q-BERT's QUANTIZE-HOWTO prints them."""
    assert order(COLA) == [8, 5, 4, 3, 6, 7, 2, 1, 0, 9, 11, 10]
    assert order(NER) == [6, 7, 5, 4, 8, 3, 1, 2, 0, 10, 11, 9]


def test_ties_keep_their_order() -> None:
    assert order([1, 2, 2, 0]) == [1, 2, 0, 3]

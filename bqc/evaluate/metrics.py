"""Scores of predictions against labels, each by its reference implementation in scikit-learn or scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.extras import require

__all__ = ["METRICS", "score"]

Array = npt.NDArray[np.generic]


def _accuracy(labels: Array, predictions: Array) -> float:
    return float(require("sklearn.metrics", "eval").accuracy_score(labels, predictions))


def _f1(labels: Array, predictions: Array) -> float:
    return float(require("sklearn.metrics", "eval").f1_score(labels, predictions, zero_division=0.0))


def _matthews(labels: Array, predictions: Array) -> float:
    return float(require("sklearn.metrics", "eval").matthews_corrcoef(labels, predictions))


def _pearson(labels: Array, predictions: Array) -> float:
    return float(require("scipy.stats", "eval").pearsonr(labels, predictions)[0])


def _spearman(labels: Array, predictions: Array) -> float:
    return float(require("scipy.stats", "eval").spearmanr(labels, predictions)[0])


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
"""Name -> function of (labels, predictions), each ``[rows]``, to a fraction in [-1, 1]; f1 is class 1's."""


def score(names: tuple[str, ...], labels: Array, predictions: Array) -> dict[str, float]:
    """The named metrics, as fractions in [-1, 1].

    Raises:
        BqcError: a prediction is not a finite number, or a correlation of fewer than two rows is asked for.
    """
    if not np.all(np.isfinite(np.asarray(predictions, dtype=np.float64))):
        raise BqcError("the model's output holds NaN or infinity, there is nothing to score")
    if len(labels) < 2:
        raise BqcError("at least two rows are needed for a score")
    return {name: METRICS[name](labels, predictions) for name in names}

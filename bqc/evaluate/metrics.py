"""Scores of predictions against labels, each by its reference implementation in scikit-learn or scipy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.extras import require
from bqc.evaluate.rows import nearest

__all__ = ["METRICS", "check_metrics", "find_function", "score"]

Array = npt.NDArray[np.generic]


def _accuracy(labels: Array, predictions: Array) -> float:
    return float(require("sklearn.metrics", "eval").accuracy_score(labels, predictions))


def _f1(labels: Array, predictions: Array) -> float:
    return float(require("sklearn.metrics", "eval").f1_score(labels, predictions, zero_division=0.0))


def _macro_f1(labels: Array, predictions: Array) -> float:
    metrics = require("sklearn.metrics", "eval")
    return float(metrics.f1_score(labels, predictions, average="macro", zero_division=0.0))


def _matthews(labels: Array, predictions: Array) -> float:
    return float(require("sklearn.metrics", "eval").matthews_corrcoef(labels, predictions))


def _pearson(labels: Array, predictions: Array) -> float:
    return float(require("scipy.stats", "eval").pearsonr(labels, predictions)[0])


def _spearman(labels: Array, predictions: Array) -> float:
    return float(require("scipy.stats", "eval").spearmanr(labels, predictions)[0])


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
"""Name -> function of (labels, predictions), each ``[rows]``, to a fraction in [-1, 1]; f1 is class 1's."""


def check_metrics(names: Sequence[str]) -> None:
    """Raise BqcError if a name is none of `METRICS`."""
    for name in names:
        if name not in METRICS:
            raise BqcError(f"no metric '{name}'{nearest(name, METRICS)}")


def find_function(spelling: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; the working directory is searched too.

    Raises:
        BqcError: it is not spelled so, cannot be imported, or is no function.
    """
    module, _, name = spelling.partition(":")
    if not module or not name.isidentifier():
        raise BqcError(f"'{spelling}' is not module:function, as in my_metrics:weighted_cost")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise BqcError(f"cannot import {spelling}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise BqcError(f"{spelling} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def score(names: tuple[str, ...], labels: Array, predictions: Array) -> dict[str, float]:
    """The named metrics, as fractions in [-1, 1].

    Raises:
        BqcError: a prediction is not a finite number, there are fewer than two rows, or f1 is asked for more than two
            classes.
    """
    if not np.all(np.isfinite(np.asarray(predictions, dtype=np.float64))):
        raise BqcError("the model's output holds NaN or infinity, there is nothing to score")
    if len(labels) < 2:
        raise BqcError("at least two rows are needed for a score")
    if "f1" in names and np.any(np.union1d(labels, predictions) > 1):
        raise BqcError("f1 is of class 1 of two; use macro_f1 for more classes")
    return {name: METRICS[name](labels, predictions) for name in names}

"""Metrics against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bqc.errors import BqcError
from bqc.evaluate.metrics import score

LABELS = np.asarray([1, 1, 1, 0, 0])
PREDICTIONS = np.asarray([1, 1, 0, 0, 1])


def test_classification() -> None:
    values = score(("accuracy", "f1", "matthews"), LABELS, PREDICTIONS)
    assert values == pytest.approx({"accuracy": 3 / 5, "f1": 2 / 3, "matthews": (2 * 1 - 1 * 1) / 6})


def test_a_constant_prediction_has_no_correlation() -> None:
    assert score(("matthews", "f1"), LABELS, np.zeros(5)) == {"matthews": 0.0, "f1": 0.0}


def test_correlation() -> None:
    labels, predictions = np.asarray([0.0, 1.0, 2.0, 3.0]), np.asarray([0.0, 1.0, 4.0, 9.0])
    values = score(("spearman", "pearson"), labels, predictions)
    assert values == pytest.approx({"spearman": 1.0, "pearson": 0.95831484749991})


def test_nothing_to_score() -> None:
    with pytest.raises(BqcError, match="NaN"):
        score(("pearson",), np.zeros(2), np.asarray([0.0, np.nan]))
    with pytest.raises(BqcError, match="two rows"):
        score(("accuracy",), np.zeros(1), np.zeros(1))

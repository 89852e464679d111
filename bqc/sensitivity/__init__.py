"""How much each part of a model loses when it alone is quantised: one file a metric, from data-free to data-rich."""

from __future__ import annotations

from bqc.sensitivity.analysis import METRICS, analyze
from bqc.sensitivity.scores import Score, Sensitivity

__all__ = ["METRICS", "Score", "Sensitivity", "analyze"]

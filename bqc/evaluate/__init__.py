"""Accuracy of any model, float or compiled, on real tasks, without torch."""

from __future__ import annotations

from bqc.evaluate.evaluation import EvalResult, evaluate
from bqc.evaluate.tasks import TASKS

__all__ = ["TASKS", "EvalResult", "evaluate"]

"""Comparing two models: which nodes and weights differ, what that costs, and where their numbers part."""

from __future__ import annotations

from bqc.diff.comparing import diff
from bqc.diff.feeds import InputChoice
from bqc.diff.report import DiffReport

__all__ = ["DiffReport", "InputChoice", "diff"]

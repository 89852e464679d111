"""Comparing engines on this machine: latency in alternating blocks, memory, load time, where the time goes."""

from __future__ import annotations

from bqc.bench.benchmark import Options, Watcher, bench
from bqc.bench.report import Report
from bqc.bench.schedule import Plan

__all__ = ["Options", "Plan", "Report", "Watcher", "bench"]

"""`--verify-each` for whatever pipelines a test runs, at a bearable price."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bqc.ir.structure import structural_hash
from bqc.pipeline import Step
from bqc.pipeline.verifying import VerifyEach

__all__ = ["VerifyOnce"]

_LARGE = 1000
"""Nodes; models that are large on purpose are not run after every pass."""

_seen: set[tuple[str, str, str]] = set()


@dataclass
class VerifyOnce(VerifyEach):
    """Checks what a pass makes of a graph once a process: many tests import the same models."""

    def wants(self, step: Step, before: ir.Model, after: ir.Model) -> bool:
        try:
            key = (step.name, structural_hash(before), structural_hash(after))
        except KeyError:  # the nodes are not sorted yet
            return True
        new = key not in _seen and len(after.graph) < _LARGE
        _seen.add(key)
        return new

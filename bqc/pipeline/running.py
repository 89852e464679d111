"""Running passes over a model, with progress and lineage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bqc.passes import pass_name
from bqc.pipeline.instruments import Instrument

__all__ = ["LINEAGE_KEY", "Step", "run"]

LINEAGE_KEY = "bqc.pass"
"""Metadata of a node: the pass that made it (`bqc.source` has the names of the nodes it stands for)."""


@dataclass(frozen=True)
class Step:
    """What one pass did."""

    name: str
    modified: bool
    nodes: int
    """Nodes of the main graph afterwards."""
    seconds: float


def run(
    model: ir.Model,
    passes: Sequence[ir.passes.InPlacePass],
    progress: Callable[[int, int], None] | None = None,
    done: int = 0,
    total: int | None = None,
    instruments: Sequence[Instrument] = (),
) -> list[Step]:
    """Run the passes in order; ``progress`` is called with (passes done, passes in all)."""
    steps = []
    for i, one in enumerate(passes):
        if progress is not None:
            progress(done + i, total or len(passes))
        name = pass_name(one)
        for instrument in instruments:
            instrument.before(name, model)
        before = set(model.graph)
        started = time.perf_counter()
        result = one(model)
        seconds = time.perf_counter() - started
        for node in model.graph:
            if node not in before:
                node.metadata_props[LINEAGE_KEY] = name
        steps.append(Step(name, result.modified, len(model.graph), seconds))
        for instrument in instruments:
            instrument.after(steps[-1], model)
    if progress is not None:
        progress(done + len(passes), total or len(passes))
    return steps

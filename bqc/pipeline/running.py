"""Running passes over a model, with progress and lineage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import onnx_ir as ir

from bqc.ir.counting import RewriteLog, counting
from bqc.passes import pass_name
from bqc.pipeline.instruments import Instrument

__all__ = ["LINEAGE_KEY", "Step", "run", "watching"]

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
    rewrites: int = 0
    """Matches that were replaced; one for a pass that changes the whole graph."""
    within: tuple[str, ...] = ()
    """The passes that this one is a part of, outermost first."""


@dataclass
class _Watch:
    instruments: tuple[Instrument, ...]
    log: RewriteLog
    within: tuple[str, ...] = ()
    attributed: set[ir.Node] = field(default_factory=set)


_watch: ContextVar[_Watch | None] = ContextVar("bqc.watch", default=None)


@contextmanager
def watching(instruments: Sequence[Instrument] = (), *, limit: int | None = None) -> Iterator[RewriteLog]:
    """Every `run` inside the block is watched by these instruments, and by those of a block around this one.

    Runs inside the block share one count of rewrites. Once there are ``limit``, the pass that is running leaves its
    other matches alone and no further pass is run.
    """
    outer = _watch.get()
    watch = _Watch((*(outer.instruments if outer is not None else ()), *instruments), RewriteLog(limit))
    token = _watch.set(watch)
    try:
        with counting(watch.log):
            yield watch.log
    finally:
        _watch.reset(token)


def run(
    model: ir.Model,
    passes: Sequence[ir.passes.InPlacePass],
    progress: Callable[[int, int], None] | None = None,
    done: int = 0,
    total: int | None = None,
) -> list[Step]:
    """Run the passes in order; ``progress`` is called with (passes done, passes in all).

    A pass that consists of others runs them with this function too: they are watched, counted and limited like any.
    """
    steps = []
    with ExitStack() as stack:
        watch = _watch.get()
        if watch is None:
            stack.enter_context(watching())
            watch = _watch.get()
            assert watch is not None, "just set"
        if not watch.within:
            for instrument in watch.instruments:
                instrument.begins(model)
        for i, one in enumerate(passes):
            if progress is not None:
                progress(done + i, total or len(passes))
            if watch.log.full:
                break
            steps.append(_step(watch, model, one))
    if progress is not None:
        progress(done + len(passes), total or len(passes))
    return steps


def _step(watch: _Watch, model: ir.Model, one: ir.passes.InPlacePass) -> Step:
    name, within, log = pass_name(one), watch.within, watch.log
    for instrument in watch.instruments:
        instrument.before(one, model)
    before, counted = set(model.graph), len(log.rewrites)
    watch.within, log.by = (*within, name), name
    started = time.perf_counter()
    try:
        result = one(model)
        if result.modified and len(log.rewrites) == counted:
            log.add(None)
    except Exception as error:
        for instrument in watch.instruments:
            instrument.failed(one, model, error)
        raise
    finally:
        watch.within, log.by = within, within[-1] if within else ""
    seconds = time.perf_counter() - started
    for node in model.graph:
        if node not in before and node not in watch.attributed:
            node.metadata_props[LINEAGE_KEY] = name
            watch.attributed.add(node)
    rewrites = len(log.rewrites) - counted
    step = Step(name, result.modified, len(model.graph), seconds, rewrites, within)
    for instrument in watch.instruments:
        instrument.after(step, model)
    return step

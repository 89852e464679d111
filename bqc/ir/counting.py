"""Counting rewrites, and stopping after so many.

A pass asks `may_rewrite` at each match, when all predicates hold and before anything is changed. Outside of a
`counting` block the answer is always yes. Inside, every yes is written down with its place in the graph, and once the
limit is reached the answer is no: the pass goes on and leaves the rest as it is. So the first N rewrites of a
pipeline can be had without the others, which is how `bqc bisect` finds the one that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import onnx_ir as ir

from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.ir.explain import node_name

__all__ = ["Rewrite", "RewriteLog", "counting", "may_rewrite"]


@dataclass(frozen=True)
class Rewrite:
    """One match that was replaced.

    Attributes:
        index: its number in the pipeline, from 1.
        by: the pass.
        node: operator and name of the node that the match was found at; empty for a pass that changes the whole graph.
        where: ``layer:role`` of the node, empty where it has no labels.
    """

    index: int
    by: str
    node: str
    where: str

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"rewrite {self.index}, {self.by} at {self.node or 'the whole graph'}{place}"


@dataclass
class RewriteLog:
    """The rewrites of a pipeline so far, and how many there may be.

    Attributes:
        limit: None for any number.
        by: the pass that is running.
    """

    limit: int | None = None
    by: str = ""
    rewrites: list[Rewrite] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether no further rewrite is allowed."""
        return self.limit is not None and len(self.rewrites) >= self.limit

    def add(self, at: ir.Node | ir.Value | None) -> bool:
        """Write down a rewrite at a node, of a value or of the whole graph; False, and nothing, if the log is full."""
        if self.full:
            return False
        self.rewrites.append(Rewrite(len(self.rewrites) + 1, self.by, _name(at), _where(at)))
        return True


_log: ContextVar[RewriteLog | None] = ContextVar("bqc.rewrites", default=None)


@contextmanager
def counting(log: RewriteLog) -> Iterator[RewriteLog]:
    """Count the rewrites inside the block."""
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


def may_rewrite(at: ir.Node | ir.Value) -> bool:
    """May the match at this node, or of this value, be replaced? A yes counts as one rewrite."""
    log = _log.get()
    return log is None or log.add(at)


def _name(at: ir.Node | ir.Value | None) -> str:
    if isinstance(at, ir.Node):
        return node_name(at)
    return "" if at is None else f"value {at.name!r}"


def _where(at: ir.Node | ir.Value | None) -> str:
    labels = {} if at is None else at.metadata_props
    return f"{labels[LAYER_KEY]}:{labels[ROLE_KEY]}" if {LAYER_KEY, ROLE_KEY} <= labels.keys() else ""

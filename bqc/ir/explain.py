"""Why a rule did not apply: misses, collected while importing, for `--explain` and for error messages.

The collection travels with the model in memory (`Model.meta`, never written to a file), so that every pass
can be run alone and still tell its story.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

__all__ = ["Explanation", "Miss", "NoMatch", "explanation", "node_name"]

_KEY = "bqc.explanation"


@dataclass(frozen=True)
class Miss:
    """One place where a rule started to match and then failed."""

    rule: str
    node: str
    predicate: str
    depth: int = 0
    """How many predicates held before this one failed; the deepest miss is the nearest."""

    def __str__(self) -> str:
        return f"{self.rule} at {self.node}: {self.predicate}"


class NoMatch(Exception):
    """Raised inside a rule by the predicate that failed; `depth` counts those that held before it."""

    def __init__(self, predicate: str, depth: int) -> None:
        super().__init__(predicate)
        self.depth = depth


@dataclass
class Explanation:
    """Every miss of an import, in the order in which rules ran."""

    misses: list[Miss] = field(default_factory=list)

    def add(self, rule: str, node: ir.Node, predicate: str, depth: int = 0) -> None:
        """Record that `rule` failed at `node` because `predicate`, after `depth` predicates that held."""
        miss = Miss(rule, node_name(node), predicate, depth)
        if miss not in self.misses:
            self.misses.append(miss)

    def nearest(self, *rules: str) -> Miss | None:
        """The miss that came nearest to matching, of the named rules or of all."""
        chosen = [m for m in self.misses if not rules or m.rule in rules]
        return max(chosen, key=lambda m: m.depth, default=None)

    def __str__(self) -> str:
        return "\n".join(map(str, self.misses))


def explanation(model: ir.Model) -> Explanation:
    """The misses recorded on `model` so far; passes add to it."""
    known = model.meta.get(_KEY)
    if not isinstance(known, Explanation):
        known = model.meta[_KEY] = Explanation()
    return known


def node_name(node: ir.Node) -> str:
    """A name a reader can find in a viewer: the node's own, or its first output's."""
    return f"{node.op_type} {node.name or node.outputs[0].name!r}"

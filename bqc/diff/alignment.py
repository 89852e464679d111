"""Which node of one model is which node of the other.

Nothing here depends on which model comes first, so that a comparison read backwards is its mirror image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bqc.diff.hashing import Hasher, operator_name
from bqc.diff.lineage import absorbed, is_folded, seeds
from bqc.diff.signature import Ends, match_ends
from bqc.diff.view import NOWHERE, View
from bqc.ir.structure import digest

__all__ = ["Alignment", "align"]

_REACHES: tuple[tuple[int | None, int | None], ...] = (
    (None, None),
    (None, 6),
    (6, None),
    (None, 1),
    (1, None),
    (None, 0),
    (0, None),
    (12, 12),
    (4, 4),
)
"""How far forward and backward hashes look, in the order in which they are tried; None is to the end."""


@dataclass
class Alignment:
    """Nodes of two views, matched.

    Attributes:
        ends: inputs and outputs, matched.
        partner: node -> its counterpart, in both directions.
        absorbed: node of one model -> operators of the other that do its work among that of others.
    """

    ends: Ends
    partner: dict[ir.Node, ir.Node] = field(default_factory=dict)
    absorbed: dict[ir.Node, tuple[ir.Node, ...]] = field(default_factory=dict)

    def join(self, one: ir.Node, other: ir.Node) -> None:
        """Make two nodes counterparts."""
        self.partner[one] = other
        self.partner[other] = one

    def rest(self, nodes: Iterable[ir.Node]) -> list[ir.Node]:
        """Nodes without a counterpart."""
        return [node for node in nodes if node not in self.partner]

    def corresponds(self, one: ir.Value | None, other: ir.Value | None) -> bool:
        """Do two values, each of its model, come from matched nodes, inputs or nowhere?"""
        if one is None or other is None:
            return one is other
        ours, theirs = one.producer(), other.producer()
        if ours is None or theirs is None:
            known = self.ends.anchors.get(one)
            return ours is theirs and known is not None and known == self.ends.anchors.get(other)
        return self.partner.get(ours) is theirs and one.index() == other.index()


def align(a: View, b: View) -> Alignment:
    """Match nodes: by hashes of their surroundings, by lineage, then by what is next to matched nodes."""
    hashers = Hasher(a), Hasher(b)
    ends = match_ends(*hashers)
    found = Alignment(ends)
    # Where both models have an anatomy, a layer is first of all the layer of the same number.
    for labelled in (True, False) if a.labels and b.labels else (False,):
        for reach in _REACHES:
            if not found.rest(a.nodes) or not found.rest(b.nodes):
                break
            keys = [_keys(hasher, ends.anchors, *reach, labelled) for hasher in hashers]
            _pair_equal(found, (a, b), keys, unique=None not in reach)
    for one, other in seeds(a, b):
        if one not in found.partner and other not in found.partner:
            found.join(one, other)
    _spread(found, a, b, hashers)
    _by_place(found, a, b)
    _spread(found, a, b, hashers)
    found.absorbed = absorbed(a, found.partner) | absorbed(b, found.partner)
    return found


def _keys(
    hasher: Hasher,
    anchors: Mapping[ir.Value, str],
    before: int | None,
    after: int | None,
    labelled: bool,
) -> dict[ir.Node, str]:
    forward, backward = hasher.forward(anchors, before), hasher.backward(anchors, after)
    label = hasher.view.label
    return {
        node: digest(forward[node], backward[node], *(label(node) if labelled else ()))
        for node in hasher.view.nodes
    }


def _pair_equal(
    found: Alignment, views: tuple[View, View], keys: list[dict[ir.Node, str]], *, unique: bool
) -> None:
    """Pair unmatched nodes of equal keys: all there are equally many of, or only those without a double."""
    groups: list[dict[str, list[ir.Node]]] = [{}, {}]
    for side, view in enumerate(views):
        for node in found.rest(view.nodes):
            groups[side].setdefault(keys[side][node], []).append(node)
    for key, ours in groups[0].items():
        theirs = groups[1].get(key, [])
        if len(ours) != len(theirs) or (unique and len(ours) > 1):
            continue
        if len(ours) > 1:
            ours, theirs = _settled(views[0], ours), _settled(views[1], theirs)
        for pair in zip(ours, theirs, strict=True):
            found.join(*pair)


def _settled(view: View, nodes: list[ir.Node]) -> list[ir.Node]:
    """Interchangeable nodes in the order of their weights' contents, which no renaming or shuffling changes."""

    def contents(node: ir.Node) -> str:
        tensors = (view.constants.get(value) for value in view.reads[node] if value is not None)
        return digest(
            *view.label(node),
            *(digest(np.asarray(t.numpy()).tobytes().hex()) for t in tensors if t is not None),
        )

    return sorted(nodes, key=contents)


def _spread(found: Alignment, a: View, b: View, hashers: tuple[Hasher, Hasher]) -> None:
    """From matched nodes to their neighbours, while any two are each other's best and only choice."""
    local = {**hashers[0].local, **hashers[1].local}
    open_ = [node for node in a.nodes if node in found.partner]
    grown = True
    while grown:
        votes: Counter[tuple[ir.Node, ir.Node]] = Counter(_at_ends(found, a, b))
        # A node that has no pair of free neighbours now will never have one: matched nodes stay matched.
        pairs = {node: list(_neighbours(found, a, b, node, found.partner[node])) for node in open_}
        open_ = [node for node in open_ if pairs[node]]
        votes.update(pair for node in open_ for pair in pairs[node])
        grown = False
        for one, other in _mutual(votes, lambda pair: local[pair[0]] == local[pair[1]]):
            found.join(one, other)
            open_.append(one)
            grown = True


def _neighbours(
    found: Alignment, a: View, b: View, one: ir.Node, other: ir.Node
) -> Iterable[tuple[ir.Node, ir.Node]]:
    """Unmatched pairs that stand to a matched pair in the same way."""
    for ours, theirs in zip(a.reads[one], b.reads[other], strict=False):
        made = [None if value is None else value.producer() for value in (ours, theirs)]
        if made[0] in a.reads and made[1] in b.reads:
            yield from _free(found, made[0], made[1])
    for ours, theirs in zip(one.outputs, other.outputs, strict=False):
        yield from _readers(found, a, b, ours, theirs)


def _readers(
    found: Alignment, a: View, b: View, ours: ir.Value, theirs: ir.Value
) -> Iterable[tuple[ir.Node, ir.Node]]:
    for node, slot in a.readers.get(ours, []):
        for twin, at in b.readers.get(theirs, []):
            if slot == at:
                yield from _free(found, node, twin)


def _at_ends(found: Alignment, a: View, b: View) -> Iterable[tuple[ir.Node, ir.Node]]:
    """Unmatched readers of matched inputs, and makers of matched outputs."""
    for ours, theirs in found.ends.inputs:
        yield from _readers(found, a, b, ours, theirs)
    for ours, theirs in found.ends.outputs:
        made = ours.producer(), theirs.producer()
        if made[0] in a.reads and made[1] in b.reads:
            yield from _free(found, *made)


def _free(found: Alignment, one: ir.Node | None, other: ir.Node | None) -> Iterable[tuple[ir.Node, ir.Node]]:
    if one is None or other is None or one in found.partner or other in found.partner:
        return
    if is_folded(one) == is_folded(other):  # lineage has paired the rest
        yield one, other


def _mutual(
    votes: Mapping[tuple[ir.Node, ir.Node], int], alike: Callable[[tuple[ir.Node, ir.Node]], bool]
) -> list[tuple[ir.Node, ir.Node]]:
    """Pairs that are better than any other pair with either node: alike first, then the same operator."""
    best: dict[ir.Node, tuple[int, int]] = {}
    ranks = {}
    for pair, count in votes.items():
        same = operator_name(pair[0]) == operator_name(pair[1])
        if not same and count < 2:
            continue
        rank = (10 if alike(pair) else 5 if same else 0) + count
        ranks[pair] = rank
        for node in pair:
            top, ties = best.get(node, (-1, 0))
            best[node] = (rank, 1) if rank > top else (top, ties + (rank == top))
    return [pair for pair, rank in ranks.items() if all(best[node] == (rank, 1) for node in pair)]


def _by_place(found: Alignment, a: View, b: View) -> None:
    """Nodes of one operator in one place of the anatomy, in order, where both models have as many."""
    groups: list[dict[tuple[str, str, str], list[ir.Node]]] = [{}, {}]
    for side, view in enumerate((a, b)):
        for node in found.rest(view.nodes):
            if view.label(node) != NOWHERE:
                groups[side].setdefault((*view.label(node), operator_name(node)), []).append(node)
    for key, ours in groups[0].items():
        theirs = groups[1].get(key, [])
        if len(ours) == len(theirs):
            for pair in zip(ours, theirs, strict=True):
                found.join(*pair)

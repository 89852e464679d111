"""Inputs and outputs of two models, told apart from each other: the ends from which graphs are aligned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bqc.diff.hashing import Hasher

__all__ = ["Ends", "match_ends"]

Pair = tuple[ir.Value, ir.Value]


@dataclass(frozen=True)
class Ends:
    """Pairs of inputs and of outputs; whatever has no partner; and what both sides call each pair."""

    inputs: list[Pair]
    outputs: list[Pair]
    only: tuple[list[ir.Value], list[ir.Value]]
    """Inputs, then outputs, without a partner, of each model."""
    anchors: dict[ir.Value, str]


def match_ends(a: Hasher, b: Hasher) -> Ends:
    """Match by name, then by how they are used or computed, then by type and order."""
    views = a.view, b.view
    outputs = _by_name([view.model.graph.outputs for view in views])
    rest = [_rest(view.model.graph.outputs, outputs, side) for side, view in enumerate(views)]
    forward = [hasher.forward({}) for hasher in (a, b)]
    outputs += _by_key(rest, lambda value, side: _made(value, forward[side]))
    rest = [_rest(values, outputs, side) for side, values in enumerate(rest)]
    outputs += _by_key(rest, lambda value, side: str(value.type), in_order=True)
    anchors = _anchors("output", outputs)

    inputs = _by_name([view.inputs for view in views])
    rest = [_rest(view.inputs, inputs, side) for side, view in enumerate(views)]
    after = [hasher.backward(anchors) for hasher in (a, b)]
    hashers = a, b
    inputs += _by_key(rest, lambda value, side: hashers[side].use(value, after[side], anchors))
    rest = [_rest(values, inputs, side) for side, values in enumerate(rest)]
    inputs += _by_key(rest, lambda value, side: str(value.type), in_order=True)
    anchors |= _anchors("input", inputs)
    only = tuple(
        _rest(view.inputs, inputs, side) + _rest(view.model.graph.outputs, outputs, side)
        for side, view in enumerate(views)
    )
    return Ends(inputs, outputs, (only[0], only[1]), anchors)


def _anchors(kind: str, pairs: Iterable[Pair]) -> dict[ir.Value, str]:
    return {value: f"{kind} {at}" for at, pair in enumerate(sorted(pairs, key=_names)) for value in pair}


def _names(pair: Pair) -> list[str]:
    """The same from both sides."""
    return sorted(value.name or "" for value in pair)


def _made(value: ir.Value, forward: dict[ir.Node, str]) -> str:
    node = value.producer()
    return f"{value.index()}:{forward[node]}" if node in forward else ""


def _rest(values: Iterable[ir.Value], pairs: Iterable[Pair], side: int) -> list[ir.Value]:
    taken = {pair[side] for pair in pairs}
    return [value for value in values if value not in taken]


def _by_name(sides: Sequence[Sequence[ir.Value]]) -> list[Pair]:
    named = {value.name: value for value in sides[1]}
    return [(value, named[value.name]) for value in sides[0] if value.name in named]


def _by_key(
    sides: Sequence[Sequence[ir.Value]], key: Callable[[ir.Value, int], str], *, in_order: bool = False
) -> list[Pair]:
    """Pairs of equal keys: where one on each side has it, or in order."""
    groups: list[dict[str, list[ir.Value]]] = [{}, {}]
    for side, values in enumerate(sides):
        for value in values:
            groups[side].setdefault(key(value, side), []).append(value)
    found = []
    for name, ours in groups[0].items():
        theirs = groups[1].get(name, [])
        if in_order or len(ours) == len(theirs) == 1:
            found += list(zip(ours, theirs, strict=False))
    return found

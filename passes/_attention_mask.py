"""Which keys an attention hides, and by what: the one place that says what a mask may be.

A mask is a graph input `[B, S]` of 0 and 1, or a computed value that a rule has marked (`bqc.ir.padding`): an input of
another rank, additive masks, ids that are no padding, lengths. Each hides the keys at which it is 0, or those at which
it is 1; which of the two is found out by running. A key that any of them hides is hidden, from every query.

Old TensorFlow encoders multiply the mask of queries and that of keys, so that padded queries see other keys than the
rest. What they compute no other token reads, and it is not kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.ir.anatomy import role
from bqc.ir.build import Writer, dims
from bqc.ir.explain import NoMatch
from bqc.ir.inputs import HIDES
from bqc.ir.match import data_inputs, is_weight
from bqc.ir.padding import mark_padding
from bqc.ir.probe import Probe

__all__ = ["Mask", "feeds_of", "find_masks", "ways_to_hide", "write_shown"]

Ints = npt.NDArray[np.int64]
Feeds = Mapping[ir.Value, Ints]
_MOVES = frozenset(("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"))
_BOOL, _I64 = ir.DataType.BOOL, ir.DataType.INT64


@dataclass(frozen=True)
class Mask:
    """`value[B, S]` hides keys where it is `hidden`, 0 or 1."""

    value: ir.Value
    hidden: int = 0


def find_masks(
    graph: ir.Graph,
    probe: Probe,
    boundary: Collection[ir.Value],
    scores_of: Callable[[Feeds], npt.NDArray[np.float32]],
    pattern: Ints,
) -> tuple[Mask, ...]:
    """The masks that the first output of `probe` depends on; `scores_of` runs it with feeds like `pattern[B, S]`.

    Raises:
        NoMatch: segments, positions or ids decide what is hidden, or something hides all keys.
    """
    found = _read(probe, boundary)
    looked_up = {v: node for v in found if (node := _lookup(graph, v)) is not None}
    if any(role(node) == "embedding.word" for node in looked_up.values()):
        raise NoMatch("the scores depend on the ids, otherwise than by hiding one padding id", 6)
    if looked_up:
        names = " and ".join(sorted(repr(v.name) for v in found))
        raise NoMatch(f"the scores depend on {names}, not on masks alone", 6)
    causal = False
    for hidden in itertools.product((0, 1), repeat=len(found)):
        masks = tuple(map(Mask, found, hidden))
        whole = scores_of(feeds_of(masks, np.ones_like(pattern)))
        if (whole > HIDES).all():
            break
        causal |= bool((whole > HIDES).any() and (np.triu(whole <= HIDES, 1) == (whole <= HIDES)).all())
    else:
        if causal:
            raise NoMatch("tokens see only those before them: the causal attention of a decoder", 6)
        names = " and ".join(repr(v.name) for v in found) or "any input"
        raise NoMatch(f"some keys are hidden, whatever {names} holds", 6)
    if len(masks) == 1 and np.array_equal(scores_of(feeds_of(masks, pattern)), whole):
        return ()
    return masks


def _read(probe: Probe, boundary: Collection[ir.Value]) -> list[ir.Value]:
    """Inputs of `probe` whose values reach its outputs; those whose sizes do are left out."""
    read: dict[ir.Value, set[ir.Value]] = {v: {v} for v in probe.inputs.values() if v not in boundary}
    for node in probe.nodes:
        whose = set[ir.Value]().union(*(read.get(v, ()) for v in data_inputs(node)))
        read.update(dict.fromkeys(node.outputs, whose))
    found = set[ir.Value]().union(*(read.get(v, ()) for v in probe.outputs))
    return [v for v in probe.inputs.values() if v in found]


def _lookup(graph: ir.Graph, value: ir.Value) -> ir.Node | None:
    """What looks a table up by the value: it is ids of some kind."""
    for node in graph:
        index = node.inputs[1] if node.op_type == "Gather" and is_weight(node.inputs[0], 2) else None
        while index is not None and index is not value:
            made = index.producer()
            index = made.inputs[0] if made is not None and made.op_type in _MOVES else None
        if index is not None:
            return node
    return None


def feeds_of(masks: Sequence[Mask], *shown: Ints) -> dict[ir.Value, Ints]:
    """What to feed so that every mask shows the keys at which its pattern (of one: the pattern) is 1."""
    patterns = shown if len(shown) == len(masks) else shown * len(masks)
    return {
        mask.value: (1 - one if mask.hidden else one).astype(
            mask.value.dtype.numpy() if mask.value.dtype else np.int64
        )
        for mask, one in zip(masks, patterns, strict=True)
    }


def ways_to_hide(masks: Sequence[Mask], pattern: Ints) -> Iterator[dict[ir.Value, Ints]]:
    """Feeds under which the keys are shown at which `pattern[B, S]` is 1: by all masks, by each alone, by turns."""
    yield feeds_of(masks, pattern)
    if len(masks) > 1:
        for i in range(len(masks)):
            yield feeds_of(masks, *(pattern if n == i else np.ones_like(pattern) for n in range(len(masks))))
        turns = np.arange(pattern.shape[1]) % len(masks)
        yield feeds_of(masks, *(np.maximum(pattern, turns != n) for n in range(len(masks))))


def write_shown(w: Writer, masks: Sequence[Mask]) -> ir.Value:
    """The one mask `[B, S]` that is 1 at the keys that no mask hides."""
    if len(masks) == 1 and not masks[0].hidden:
        return masks[0].value
    total: ir.Value | None = None
    for mask in masks:
        shape = dims(mask.value)
        kept = w.op("Cast", mask.value, shape=shape, dtype=_BOOL, to=int(_BOOL))
        if mask.hidden:
            kept = w.op("Not", kept, shape=shape, dtype=_BOOL)
        total = kept if total is None else w.op("And", total, kept, shape=shape, dtype=_BOOL)
    assert total is not None, "only called where something hides keys"
    return mark_padding(w.op("Cast", total, shape=dims(masks[0].value), dtype=_I64, to=int(_I64)))

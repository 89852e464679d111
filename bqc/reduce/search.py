"""`reduce`: the search for a small model that still fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bqc.artifact import inline_bytes, require_own_files
from bqc.errors import BqcError
from bqc.ir.build import dims
from bqc.ir.inference import infer_shapes
from bqc.ir.load import load
from bqc.ir.structure import structural_hash
from bqc.opt import write_model
from bqc.pipeline.checks import Check
from bqc.pipeline.invariants import violations
from bqc.pipeline.trial import snapshot
from bqc.reduce.edits import alike, bypassed, only, resized, sizes

__all__ = ["Reduction", "reduce"]

_COARSE = 16
"""Pieces that the graph is first cut into; single nodes are tried when it is small."""


@dataclass(frozen=True)
class Reduction:
    """What came out.

    Attributes:
        path: the reduced model.
        failure: what the check says of it.
        nodes: of the main graph, before and after.
        bytes: of initializers, before and after.
        checks: how often the check ran.
        repeats: models that had been checked before in the same form.
    """

    path: Path
    failure: str
    nodes: tuple[int, int]
    bytes: tuple[int, int]
    checks: int
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def reduce(
    model: str | Path,
    check: Check,
    output: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Reduction:
    """Take away nodes, layers and sizes while the model fails in the same way.

    The result is valid ONNX. Its inputs and outputs may be others than the model's: what is cut off becomes an input,
    what is then read by nobody an output.

    Args:
        model: a file.
        check: a model fails in the same way if the kind of its failure is that of the whole model's.
        output: where the result goes; text with all its numbers if the name ends in ``.onnxtxt``.
        progress: called with (nodes taken away, nodes of the model).

    Raises BqcError if the model cannot be read, the check finds nothing wrong with it, or the result cannot be written.
    """
    whole = load(model)
    require_own_files(Path(output), Path(model), whole)
    search = _Search(check, whole, progress)
    small = search.reduced()
    failure = check.failure(small)
    assert failure is not None, "kept only if it fails"
    sizes_before = (len(whole.graph), inline_bytes(whole))
    nodes, size = len(small.graph), inline_bytes(small)
    write_model(small, Path(output), tensors="inline")
    return Reduction(
        Path(output),
        failure.text,
        (sizes_before[0], nodes),
        (sizes_before[1], size),
        search.checks,
        search.repeats,
    )


@dataclass
class _Search:
    check: Check
    best: ir.Model
    progress: Callable[[int, int], None] | None
    checks: int = 0
    repeats: int = 0
    _known: dict[tuple[Any, ...], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = len(self.best.graph)
        self.checks += 1
        failure = self.check.failure(self.best)
        if failure is None:
            raise BqcError("the check finds nothing wrong with the model, so there is nothing to reduce")
        self.kind = failure.kind
        self.allowed = violations(self.best).keys()
        typed = snapshot(self.best)
        infer_shapes(typed)
        self.tried(typed)

    def reduced(self) -> ir.Model:
        self.cut(_COARSE)
        size = None
        while size != (size := (len(self.best.graph), inline_bytes(self.best))):
            self.shorten()
            self.cut(self.nodes)
            self.shrink()
        return self.best

    def cut(self, pieces: int) -> None:
        """Keep as few nodes as will do (Zeller and Hildebrandt, ddmin), in at most so many pieces."""
        whole = self.best

        def fails(kept: Collection[int]) -> bool:
            return self.tried(only(whole, kept))

        _ddmin(list(range(len(whole.graph))), fails, pieces)

    def shorten(self) -> None:
        """Read earlier values in the place of later ones of the same type: whole layers, then less."""
        step = len(self.best.graph)
        while step := step // 2:
            place = 0
            while True:
                pairs = [(g[i + step], g[i]) for g in alike(self.best) for i in range(0, len(g) - step, step)]
                place = next(
                    (i for i in range(place, len(pairs)) if self.tried(bypassed(self.best, *pairs[i]))), -1
                )
                if place < 0:
                    break

    def shrink(self) -> None:
        """Make axes smaller, those of heads and hidden states together."""
        smaller = True
        while smaller:
            smaller = any(self.tried(resized(self.best, change)) for change in _changes(self.best))

    def tried(self, model: ir.Model | None) -> bool:
        """Whether a model is valid and fails in the same way; it is the best one then."""
        if model is None or not len(model.graph):
            return False
        inputs = tuple((value.name, str(dims(value))) for value in model.graph.inputs)
        key = (structural_hash(model), inputs)
        if key in self._known:
            self.repeats += 1
        else:
            self._known[key] = violations(model).keys() <= self.allowed and self._fails(model)
        if self._known[key]:
            self.best = model
            if self.progress is not None:
                self.progress(self.nodes - len(model.graph), self.nodes)
        return self._known[key]

    def _fails(self, model: ir.Model) -> bool:
        self.checks += 1
        failure = self.check.failure(model)
        return failure is not None and failure.kind == self.kind


def _changes(model: ir.Model) -> list[Mapping[int, int]]:
    every, named = sizes(model)
    changes: list[Mapping[int, int]] = []
    for size in every:
        changes.append({size: 1})
        changes += [{size: size // part, part: 1} for part in named if part < size and size % part == 0]
        changes += [{size: size // 2}] if size > 3 else []
    return changes


def _ddmin(items: list[int], fails: Callable[[Collection[int]], bool], pieces: int) -> list[int]:
    count = 2
    while len(items) > 1:
        parts = _split(items, count)
        part = next((part for part in parts if fails(set(part))), None)
        if part is not None:
            items, count = part, 2
            continue
        rests = ([item for item in items if item not in set(part)] for part in parts) if count > 2 else ()
        rest = next((rest for rest in rests if fails(set(rest))), None)
        if rest is not None:
            items, count = rest, max(count - 1, 2)
        elif count < min(len(items), pieces):
            count = min(2 * count, len(items), pieces)
        else:
            break
    return items


def _split(items: Sequence[int], count: int) -> list[list[int]]:
    bounds = [len(items) * i // count for i in range(count + 1)]
    return [list(items[a:b]) for a, b in itertools.pairwise(bounds) if b > a]

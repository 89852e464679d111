"""`bisect`: which pass of a pipeline, and which of its rewrites, makes a model fail a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.counting import Rewrite
from bqc.ir.load import load
from bqc.passes import pass_name
from bqc.pipeline import Instrument, Step, run, watching
from bqc.pipeline.checks import Check, Failure, SameOutputs, save
from bqc.pipeline.trial import snapshot

__all__ = ["Bisection", "Culprit", "bisect"]

Pass = ir.passes.InPlacePass
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Culprit:
    """The first rewrite after which the check fails.

    Attributes:
        by: the pass.
        within: the passes that it is a part of.
        rewrite: the rewrite; None where the pass raised, which is no rewrite's fault.
        number: which of the rewrites of the pass it is, from 1, and how many there are.
        failure: what the check said.
    """

    by: str
    within: tuple[str, ...]
    rewrite: Rewrite | None
    number: tuple[int, int]
    failure: str

    def __str__(self) -> str:
        if self.rewrite is None:
            return f"{self.by}: {self.failure}"
        number, total = self.number
        return f"{self.rewrite}, number {number} of {total} of the pass: {self.failure}"


@dataclass(frozen=True)
class Bisection:
    """What was found.

    Attributes:
        culprit: None if the model is good after the whole pipeline.
        rewrites: of the pipeline, as far as it ran.
        checks: how often the check ran.
        paths: models before and after the culprit, if they were asked for.
    """

    culprit: Culprit | None
    rewrites: int
    checks: int
    paths: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bisect(
    model: str | Path,
    passes: Sequence[Pass],
    check: Check | None = None,
    *,
    output: Path | None = None,
    progress: Progress | None = None,
) -> Bisection:
    """Find the first pass, and in it the first rewrite, after which the check fails.

    Args:
        model: a file.
        passes: the pipeline; parts of a pass are looked at too.
        check: compares with the outputs of the model itself if None.
        output: a folder for ``good.onnx`` and ``bad.onnx``, the models before and after the rewrite.
        progress: called with (checks done, checks at most).

    Raises BqcError if the model cannot be read, the check fails on it as it is, or a pass cannot work on it.
    """
    original = load(model)
    search = _Search(check or SameOutputs(original), passes, progress)
    return search.bisect(original, output)


@dataclass
class _Point:
    """The model after so many passes that changed it, and the pass that follows."""

    model: ir.Model
    rewrites: int
    one: Pass | None = None
    step: Step | None = None


@dataclass
class _Trail(Instrument):
    """Remembers the model before each pass that changes it and consists of no others."""

    points: list[_Point] = field(default_factory=list)
    _open: list[_Point] = field(default_factory=list)
    _rewrites: int = 0
    raised: tuple[_Point, Exception] | None = None

    def before(self, one: Pass, model: ir.Model) -> None:
        self._open.append(_Point(snapshot(model), self._rewrites, one))

    def after(self, step: Step, model: ir.Model) -> None:
        point = self._open.pop()
        if step.rewrites and point.rewrites == self._rewrites:
            point.step = step
            self._rewrites += step.rewrites
            self.points.append(point)

    def failed(self, one: Pass, model: ir.Model, error: Exception) -> None:
        point = self._open.pop()
        if self.raised is None:
            self.raised = (point, error)


@dataclass
class _Search:
    check: Check
    passes: Sequence[Pass]
    progress: Progress | None
    checks: int = 0
    expected: int = 2

    def bisect(self, original: ir.Model, output: Path | None) -> Bisection:
        broken = self.failure(original, [])
        if broken:
            raise BqcError(f"the check fails on the model as it is, before any pass: {broken}")
        trail, model = _Trail(), snapshot(original)
        with watching([trail]) as log:
            try:
                run(model, self.passes)
            except BqcError:
                raise
            except Exception as error:
                assert trail.raised is not None, "a pass raised"
                reason = f"it raises {type(error).__name__}: {' '.join(str(error).split())}"
                # What came before it may be wrong already.
                model = trail.raised[0].model
        points = [*trail.points, _Point(model, sum(p.step.rewrites for p in trail.points if p.step))]
        self.expected = (
            2 + len(points).bit_length() + max(p.step.rewrites if p.step else 0 for p in points).bit_length()
        )
        done = [point.one for point in trail.points if point.one is not None]
        broken = self.failure(model, done)
        if broken is None and trail.raised is not None:
            point, _ = trail.raised
            assert point.one is not None, "it was about to run"
            culprit = Culprit(pass_name(point.one), (), None, (0, 0), reason)
            paths = _saved(output, point.model, None)
            return Bisection(culprit, len(log.rewrites), self.checks, paths)
        if broken is None:
            return Bisection(None, len(log.rewrites), self.checks)
        good, bad = 0, len(points) - 1
        while bad - good > 1:
            middle = (good + bad) // 2
            failure = self.failure(points[middle].model, done[:middle])
            good, bad, broken = (middle, bad, broken) if failure is None else (good, middle, failure)
        culprit, before, after = self.within(points[good], done[:bad], broken)
        return Bisection(culprit, len(log.rewrites), self.checks, _saved(output, before, after))

    def within(
        self, point: _Point, done: Sequence[Pass], broken: Failure
    ) -> tuple[Culprit, ir.Model, ir.Model]:
        """The first bad rewrite of the pass that follows a good point, and the models before and after it."""
        assert point.one is not None, "only the last point has none"
        assert point.step is not None, "only the last point has none"
        good, bad = 0, point.step.rewrites
        before = point.model
        while bad - good > 1:
            middle = (good + bad) // 2
            model, _ = _limited(point, middle)
            failure = self.failure(model, done)
            if failure is None:
                good, before = middle, model
            else:
                bad, broken = middle, failure
        after, rewrite = _limited(point, bad)
        culprit = Culprit(
            point.step.name, point.step.within, rewrite, (bad, point.step.rewrites), broken.text
        )
        return culprit, before, after

    def failure(self, model: ir.Model, done: Sequence[Pass]) -> Failure | None:
        if self.progress is not None:
            self.progress(self.checks, self.expected)
        self.checks += 1
        return self.check.failure(model, done)


def _limited(point: _Point, limit: int) -> tuple[ir.Model, Rewrite]:
    """The model after so many rewrites of the pass that follows, and the last of these, numbered in the pipeline."""
    assert point.one is not None, "only the last point has none"
    model = snapshot(point.model)
    with watching(limit=limit) as log:
        run(model, [point.one])
    last = log.rewrites[-1]
    return model, Rewrite(point.rewrites + last.index, last.by, last.node, last.where)


def _saved(folder: Path | None, good: ir.Model, bad: ir.Model | None) -> tuple[Path, ...]:
    if folder is None:
        return ()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        named = (("good.onnx", good), ("bad.onnx", bad))
        return tuple(save(model, folder / name) for name, model in named if model is not None)
    except OSError as error:
        raise BqcError(f"{folder}: cannot be written: {error.strerror or error}") from None

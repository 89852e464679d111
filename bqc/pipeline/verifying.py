"""Checking the model, and what it computes, after every pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bqc.contract import contract_of
from bqc.errors import BqcError, Finding
from bqc.passes import pass_name
from bqc.pipeline.instruments import Instrument
from bqc.pipeline.invariants import Before, violations
from bqc.pipeline.reproducer import write_reproducer
from bqc.pipeline.running import Step
from bqc.pipeline.trial import completed, disagreement, evaluate, make_feeds, snapshot, tolerance
from bqc.runtime.feeds import Feeds

__all__ = ["VerifyEach"]

Pass = ir.passes.InPlacePass


@dataclass
class _Frame:
    one: Pass
    model: ir.Model
    before: Before
    consists_of_others: bool = False


@dataclass(frozen=True)
class _State:
    violated: dict[str, str]
    outputs: Feeds | None
    why: str = ""


@dataclass
class VerifyEach(Instrument):
    """Raise a `Finding` where a pass breaks the model or its contract, and leave a folder that shows it.

    After each pass that changed something: ONNX checker, strict shape inference, unique names, topological order,
    inputs and outputs as they were, labels kept, and what it computes from a few small inputs, within the contract that
    the pass states.
    What did not hold before a pass is not asked of it. A pass that consists of others is checked by these. Raises
    BqcError if ``inputs`` cannot be read or lacks an input.

    Attributes:
        inputs: a ``.npz`` with one array an input; made up if None.
        reproducers: the folder to leave; ``bqc-repro-PASS`` in the working folder if None.
        checked: passes that were checked so far.
    """

    inputs: Path | None = None
    reproducers: Path | None = None
    checked: int = 0
    _given: Feeds | None = field(init=False, default=None)
    _frames: list[_Frame] = field(default_factory=list)
    _feeds: Feeds | None = None
    _copy: ir.Model | None = None
    """Of the model as it is; None where it is not known to be."""
    _state: _State | None = None
    """Of the model as it is; None where it has not been looked at."""

    def __post_init__(self) -> None:
        if self.inputs is not None:
            self._given = _read(self.inputs)

    def wants(self, step: Step, before: ir.Model, after: ir.Model) -> bool:
        """Whether to check what this pass has made of a model; a subclass may know the answer already."""
        return True

    def begins(self, model: ir.Model) -> None:
        self._feeds, self._copy, self._state = self._given, None, None

    def before(self, one: Pass, model: ir.Model) -> None:
        if self._frames:
            self._frames[-1].consists_of_others = True
        if self._copy is None:
            self._copy = snapshot(model)
        self._frames.append(_Frame(one, self._copy, Before.of(model)))

    def after(self, step: Step, model: ir.Model) -> None:
        frame = self._frames.pop()
        if frame.consists_of_others or not step.modified:
            return
        was, self._state, self._copy = self._state, None, snapshot(model)
        if not self.wants(step, frame.model, self._copy):
            return
        self.checked += 1
        was = was or self._look(frame.model)
        now = self._state = self._look(self._copy)
        new = [f"{rule}: {text}" for rule, text in now.violated.items() if rule not in was.violated]
        for problem in (*new, *frame.before.lost(model)):
            self._report(frame, problem)
        if was.outputs is None:
            return
        if now.outputs is None:
            self._report(frame, f"ONNX Runtime ran the model before it and does not now: {now.why}")
        else:
            contract = contract_of(frame.one)
            broken = contract and disagreement(
                contract, self._fed(model), was.outputs, now.outputs, ulp=tolerance(model)
            )
            if broken:
                self._report(frame, broken)

    def failed(self, one: Pass, model: ir.Model, error: Exception) -> None:
        frame = self._frames.pop()
        if not isinstance(error, BqcError):
            self._report(frame, f"it raised {type(error).__name__}: {' '.join(str(error).split())}")

    def _report(self, frame: _Frame, problem: str) -> None:
        found = f"{pass_name(frame.one)}: {problem}"
        try:
            place = write_reproducer(
                self.reproducers, frame.one, frame.model, self._fed(frame.model), problem
            )
        except (OSError, BqcError) as error:
            raise Finding(f"{found}; nothing is left that shows it: {error}") from None
        raise Finding(f"{found}; {place}/README.md says how to see it again")

    def _look(self, model: ir.Model) -> _State:
        """What is wrong with a model, and its outputs if it can be run."""
        whole = completed(model)
        violated, feeds = violations(whole), self._fed(model)
        try:
            return _State(violated, evaluate(whole, feeds))
        except BqcError as error:
            return _State(violated, None, str(error))

    def _fed(self, model: ir.Model) -> Feeds:
        if self._feeds is None:
            self._feeds = make_feeds(model)
        missing = [
            v.name for v in model.graph.inputs if v.name not in self._feeds.keys() | model.graph.initializers
        ]
        if self._given is not None and missing:
            raise BqcError(f"{self.inputs} lacks {', '.join(map(str, missing))}")
        return self._feeds


def _read(path: Path) -> Feeds:
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # OSError, ValueError, BadZipFile, AttributeError for a lone .npy
        raise BqcError(f"{path}: not a readable .npz file") from error

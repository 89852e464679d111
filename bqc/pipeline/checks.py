"""Checks that say whether a model is good: a command of the user, or bqc's own comparison."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from bqc.contract import contract_of, together
from bqc.errors import BqcError
from bqc.pipeline.running import run
from bqc.pipeline.trial import completed, disagreement, evaluate, make_feeds, snapshot, tolerance
from bqc.runtime.feeds import Feeds

__all__ = ["Check", "Command", "Failure", "PipelineHolds", "SameOutputs", "save"]

Pass = ir.passes.InPlacePass


@dataclass(frozen=True)
class Failure:
    """Why a model is bad.

    Attributes:
        kind: equal for failures that are alike, as the status of a command or the type of an exception.
        text: what happened, in words.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


class Check(Protocol):
    """Judges one model after another."""

    def failure(self, model: ir.Model, done: Sequence[Pass] = ()) -> Failure | None:
        """What is wrong with a model that these passes have made; None if it is good."""


@dataclass(frozen=True)
class Command:
    """A command that is given the path of a model, in the place of ``{}`` or at the end; status 0 means good.

    Attributes:
        text: as it would be typed, without the features of a shell (for these: ``sh -c '...'``).
        timeout: seconds after which the model counts as bad; None waits for ever.
    """

    text: str
    timeout: float | None = None

    def __post_init__(self) -> None:
        self._words()

    def failure(self, model: ir.Model, done: Sequence[Pass] = ()) -> Failure | None:
        """The status with which the command ended, unless it is 0.

        Raises BqcError if the command cannot be started.
        """
        with tempfile.TemporaryDirectory(prefix="bqc-check-") as folder:
            path = save(model, Path(folder) / "model.onnx")
            words = [word.replace("{}", str(path)) for word in self._words()]
            if words == self._words():
                words.append(str(path))
            return self._run(words)

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.text)
        except ValueError as error:
            raise BqcError(f"--check {self.text!r}: {str(error).lower()}") from None
        if not words:
            raise BqcError("--check is empty; give a command that takes the path of a model")
        return words

    def _run(self, words: list[str]) -> Failure | None:
        try:
            done = subprocess.run(words, capture_output=True, timeout=self.timeout, check=False)
        except subprocess.TimeoutExpired:
            return Failure("timeout", f"the check took more than {self.timeout:g} s")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BqcError(f"--check: {words[0]} cannot be run: {reason}") from None
        if not done.returncode:
            return None
        return Failure(f"status {done.returncode}", f"the check ended with status {done.returncode}")


class SameOutputs:
    """The outputs of the original, on small inputs made up for it, within the contract of the passes since.

    Raises BqcError if the original cannot be run.
    """

    def __init__(self, original: ir.Model) -> None:
        self.feeds = make_feeds(original)
        self._outputs = evaluate(original, self.feeds)

    def failure(self, model: ir.Model, done: Sequence[Pass] = ()) -> Failure | None:
        """What differs."""
        return _compared(self._outputs, self.feeds, model, done)


@dataclass(frozen=True)
class PipelineHolds:
    """A pipeline that keeps its contract on the model: it raises nothing, and the outputs are the same.

    A model that does not run by itself is no failure of the pipeline.
    """

    passes: Sequence[Pass]

    def failure(self, model: ir.Model, done: Sequence[Pass] = ()) -> Failure | None:
        """What the pipeline did to the model."""
        feeds = make_feeds(model)
        try:
            outputs = evaluate(model, feeds)
        except BqcError:
            return None
        lowered = snapshot(model)
        try:
            run(lowered, self.passes)
        except Exception as error:  # whatever a pass may raise is what is looked for
            kind = f"raises {type(error).__name__}"
            return Failure(kind, f"the pipeline {kind}: {' '.join(str(error).split())}")
        return _compared(outputs, feeds, lowered, self.passes)


def _compared(want: Feeds, feeds: Feeds, model: ir.Model, done: Sequence[Pass]) -> Failure | None:
    try:
        outputs = evaluate(model, feeds)
    except BqcError as error:
        return Failure("does not run", str(error))
    contract = together(contract_of(one) for one in done)
    text = disagreement(contract, feeds, want, outputs, ulp=tolerance(model))
    return None if text is None else Failure("outputs", text)


def save(model: ir.Model, path: Path) -> Path:
    """Write a model of any dialect, as it is, with the definitions of its operators; returns the path."""
    ir.save(completed(model), path, external_data=f"{path.name}.data")
    return path

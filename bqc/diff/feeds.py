"""What two models are run on when they are compared: token ids for encoders, anything for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from bqc.diff.alignment import Alignment
from bqc.diff.view import View
from bqc.errors import BqcError
from bqc.runtime.feeds import Feeds, Inputs
from bqc.runtime.inputs import EncoderInputs
from bqc.runtime.specs import specs_inside

__all__ = ["InputChoice", "Run", "choose_runs"]

Run = tuple[Feeds, Feeds, npt.NDArray[np.bool_] | None]
"""Feeds of either model, and which of the [batch, sequence] positions hold a token; None for no encoder."""

_FREE = 4
"""Size given to dimensions that the graph leaves open."""


@dataclass(frozen=True)
class InputChoice:
    """What to run on: a ``.npz``, or ``samples`` random rows of ``shape`` from ``seed``."""

    file: str | Path | None = None
    samples: int | None = None
    shape: tuple[int, int] | None = None
    seed: int = 0


def choose_runs(
    views: tuple[View, View],
    alignment: Alignment,
    sessions: tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession],
    paths: tuple[Path, Path],
    choice: InputChoice,
) -> tuple[str, list[Run]]:
    """A description and the runs.

    Raises:
        BqcError: the file does not fit, or an input is of a type that cannot be made up.
    """
    try:
        specs = specs_inside(sessions)
        for running in sessions:
            EncoderInputs.of(running, specs)
    except BqcError:
        return _any_inputs(views, alignment, choice)
    # The second model of `Inputs.choose` is asked for its vocabulary.
    found = Inputs.choose(
        (sessions[1], sessions[0]),
        (paths[1], paths[0]),
        choice.file,
        choice.samples,
        choice.shape,
        choice.seed,
    )
    return found.description, [(ours, theirs, mask) for theirs, ours, mask in found.runs]


def _any_inputs(views: tuple[View, View], alignment: Alignment, choice: InputChoice) -> tuple[str, list[Run]]:
    if alignment.ends.only[0] or alignment.ends.only[1]:
        known = {*views[0].inputs, *views[1].inputs}
        lone = [v.name for side in alignment.ends.only for v in side if v in known]
        if lone:
            raise BqcError(
                f"the models cannot be run on the same inputs: only one has {', '.join(map(str, lone))}"
            )
    values = [one for one, _ in alignment.ends.inputs]
    if choice.file is None:
        random = np.random.default_rng(choice.seed)
        feeds = {value.name or "": _made_up(value, random) for value in values}
        description = f"random inputs, seed {choice.seed}"
    else:
        feeds = _read(choice.file, values)
        description = str(choice.file)
    twins = {other.name or "": feeds[one.name or ""] for one, other in alignment.ends.inputs}
    return description, [(feeds, twins, None)]


def _made_up(value: ir.Value, random: np.random.Generator) -> npt.NDArray[np.generic]:
    if value.dtype is None or value.shape is None:
        raise BqcError(f"input {value.name} has no type or shape; give inputs with --inputs FILE.npz")
    shape = [size if isinstance(size, int) else _FREE for size in value.shape]
    dtype = value.dtype.numpy()
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind in "iub":
        return random.integers(0, 2, size=shape).astype(dtype)
    raise BqcError(f"input {value.name} is {value.dtype.name}; give inputs with --inputs FILE.npz")


def _read(file: str | Path, values: list[ir.Value]) -> Feeds:
    try:
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # OSError, ValueError, BadZipFile, AttributeError for a lone .npy
        raise BqcError(f"{file}: not a readable .npz file") from error
    missing = [value.name or "" for value in values if value.name not in arrays]
    if missing:
        raise BqcError(f"{file} lacks {', '.join(missing)} (it has {', '.join(arrays) or 'nothing'})")
    return {
        v.name or "": arrays[v.name or ""].astype(v.dtype.numpy()) if v.dtype else arrays[v.name or ""]
        for v in values
    }

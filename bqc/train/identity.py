"""What identifies a training run: only checkpoints of the same run are gone on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import yaml

from bqc.errors import BqcError
from bqc.evaluate.task import Examples
from bqc.staging import write_text

__all__ = ["IDENTITY", "begin", "rows_digest", "weights_digest"]

IDENTITY = "run.yaml"
"""In the folder of a run: what identifies it."""
_KEY, _VERSION = "bqc_run", 1
_PROGRESS = tuple(
    f"{run}*/{file}"
    for run in ("", "slim/run/", "scheme/")
    for file in ("checkpoint-*/complete", "finished.pt")
)
"""What a run, or one of the two of a run with a width, has in its folder once there is something to go on from."""
_WORDS = {
    "model_weights": "digest of the model's weights",
    "teacher_weights": "digest of the teacher's weights",
    "training_rows": "digest of the training rows",
    "dev_rows": "digest of the dev rows",
    "tokenizer": "digest of the tokenizer",
}
_SHOWN = 12
"""Digits of a digest in a message."""


def weights_digest(model: ir.Model) -> str:
    """Digest of an imported model's weights, hexadecimal: the same wherever the file lies."""
    digest = hashlib.sha256()
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.tobytes())
    return digest.hexdigest()


def rows_digest(examples: Examples) -> str:
    """Digest of texts and labels in their order, hexadecimal."""
    digest = hashlib.sha256()
    for text, label in zip(examples.texts, examples.labels, strict=True):
        plain = label.tolist() if isinstance(label, np.ndarray | np.generic) else label
        digest.update(f"{text!r} {plain!r}\n".encode())
    return digest.hexdigest()


def begin(folder: Path, identity: Mapping[str, Any], *, resume: bool, first: bool) -> bool:
    """Make the folder of a run ready; return whether it has checkpoints of the same run to go on from.

    What is there already stays, whatever it is. Only the ``first`` of several processes writes.

    Raises:
        BqcError: there are checkpoints and not ``resume``, or they are another run's; or the folder cannot be
            written.
    """
    # As it will be read: no tuples, and keys in their order.
    wanted = {_KEY: _VERSION, **json.loads(json.dumps(identity))}
    if _left(folder):
        if not resume and first:
            raise BqcError(
                f"{folder} has the checkpoints of a run: go on with it by --resume, give another folder, or remove it"
            )
        if resume:
            _require_same(folder, wanted)
            return True
    if first:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / IDENTITY, yaml.safe_dump(wanted, sort_keys=False, width=120))
        except OSError as error:
            raise BqcError(f"{folder}: checkpoints cannot be written: {error.strerror or error}") from None
    return False


def _require_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise BqcError if the folder has another run."""
    try:
        known = yaml.safe_load((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        known = None
    if not isinstance(known, dict) or known.get(_KEY) != _VERSION:
        raise BqcError(
            f"{folder} has a run of another version of bqc, whose {IDENTITY} does not say what it was made from; "
            "give another folder"
        )
    difference = next(_differences(known, wanted), None)
    if difference is not None:
        key, old, new = difference
        raise BqcError(
            f"{folder} has the checkpoints of another run: its {_WORDS.get(key, key)} is {_shown(key, old)}, this "
            f"one's is {_shown(key, new)}; give the options of that run, or another folder"
        )


def _left(folder: Path) -> bool:
    """Whether a run has left something to go on from. One that failed before has left its identity only."""
    return any(True for pattern in _PROGRESS for _ in folder.glob(pattern))


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, old, new) of every leaf that is not the same."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield key, old, new
        return
    for name in [*new, *(name for name in old if name not in new)]:
        yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if key in _WORDS:
        return str(value)[:_SHOWN]
    if isinstance(value, float):
        return f"{value:g}"
    # A whole part that the other does not have, like a stage.
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."

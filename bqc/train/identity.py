"""What identifies a training run: only checkpoints of the same run are gone on from."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
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
_OWN = re.compile(r"\d+-[a-z0-9-]+|slim|scheme|logs|run\.yaml")
"""What a run writes into its folder: one folder a stage, those of a run with a width, logs."""
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

    Without ``resume`` what an earlier run left there is removed, and nothing else. Only the ``first`` of several
    processes writes.

    Raises:
        BqcError: ``resume``, and another run left the checkpoints there; or the folder cannot be written.
    """
    # As it will be read: no tuples, and keys in their order.
    wanted = {_KEY: _VERSION, **json.loads(json.dumps(identity))}
    known = resume and _of_the_same(folder, wanted)
    if known or not first:
        return known
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            _clear(folder)
        write_text(folder / IDENTITY, yaml.safe_dump(wanted, sort_keys=False, width=120))
    except OSError as error:
        raise BqcError(f"{folder}: checkpoints cannot be written: {error.strerror or error}") from None
    return False


def _of_the_same(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the folder has a run to go on from; False if it has none. Raises BqcError if it is another one."""
    try:
        known = yaml.safe_load((folder / IDENTITY).read_text(encoding="utf-8"))
    except OSError:
        if not folder.is_dir() or not any(path.name != "logs" for path in _left(folder)):
            return False
        known = None
    except (UnicodeDecodeError, yaml.YAMLError):
        known = None
    if not isinstance(known, dict) or known.get(_KEY) != _VERSION:
        raise BqcError(
            f"{folder} has a run of another version of bqc, whose {IDENTITY} does not say what it was made from; "
            "start again without --resume, or give another folder"
        )
    difference = next(_differences(known, wanted), None)
    if difference is not None:
        key, old, new = difference
        raise BqcError(
            f"{folder} has the checkpoints of another run: its {_WORDS.get(key, key)} is {_shown(key, old)}, this "
            f"one's is {_shown(key, new)}; give the options of that run, or another folder"
        )
    return True


def _left(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if _OWN.fullmatch(path.name))


def _clear(folder: Path) -> None:
    for path in list(_left(folder)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


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

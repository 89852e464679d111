"""Are the model's classes the task's, in its order? A permuted head scores nonsense, so it is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bqc.errors import BqcError

if TYPE_CHECKING:
    from bqc.evaluate.sentences import SentenceTask

__all__ = ["check_labels", "class_names", "generic", "output_count"]

_GENERIC = re.compile(r"label[ _]?(\d+)")


def check_labels(task: SentenceTask, config: Mapping[str, Any], width: int) -> bool:
    """Check a head of ``width`` outputs, and ``config['id2label']`` where it names them, against the task.

    Returns:
        True if names proved the order, False if there were none (no config, or LABEL_0, LABEL_1, ...).

    Raises:
        BqcError: another number of outputs, the task's names in another order, or names of another task.
    """
    expected = max(len(task.labels), 1)
    if width != expected:
        raise BqcError(
            f"the model has {output_count(width)} and {task.title} needs {expected}: "
            f"{', '.join(task.labels) or 'a single score'}"
        )
    id2label = _id2label(config)
    if task.regression or not id2label:
        return False
    names = [id2label.get(index, "") for index in range(width)]
    if len(id2label) == width and all(generic(name, index) for index, name in enumerate(names)):
        return False
    known = {_normal(name): name for name in task.labels}
    known |= {_normal(other): name for other, name in task.synonyms.items()}
    meant = [known.get(_normal(name)) for name in names]
    if len(id2label) == width and meant == list(task.labels):
        return True
    shown = ", ".join(f"{index}={name}" for index, name in sorted(id2label.items()))
    wanted = ", ".join(f"{index}={name}" for index, name in enumerate(task.labels))
    what = "in another order than" if sorted(map(str, meant)) == sorted(task.labels) else "not those of"
    raise BqcError(f"config.json gives the labels {shown}, {what} {task.title} ({wanted})")


def class_names(config: Mapping[str, Any], width: int) -> tuple[str, ...]:
    """The model's own names of its ``width`` classes: ``config['id2label']``, or LABEL_0, LABEL_1, ...

    Raises:
        BqcError: ``config`` names another number of classes.
    """
    id2label = _id2label(config) or {index: f"LABEL_{index}" for index in range(width)}
    if sorted(id2label) != list(range(width)):
        raise BqcError(
            f"config.json names {len(id2label)} labels ({', '.join(id2label.values())}) and the model has "
            f"{output_count(width)}"
        )
    return tuple(id2label[index] for index in range(width))


def output_count(count: int) -> str:
    """``1 output``, ``2 outputs``."""
    return f"{count} output{'' if count == 1 else 's'}"


def generic(name: str, index: int) -> bool:
    """Whether ``name`` says no more than the index: LABEL_0, label 0."""
    match = _GENERIC.fullmatch(_normal(name))
    return match is not None and int(match.group(1)) == index


def _id2label(config: Mapping[str, Any]) -> dict[int, str]:
    try:
        return {int(index): str(name) for index, name in config.get("id2label", {}).items()}
    except (AttributeError, ValueError):
        raise BqcError("config.json: id2label must map indices to names") from None


def _normal(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())

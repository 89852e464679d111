"""A narrower float model of a task: the first step of BinaryBERT."""

from __future__ import annotations

from pathlib import Path

from bqc.artifact import write
from bqc.errors import BqcError
from bqc.evaluate.task import Task
from bqc.passes.slim_width import SlimWidth
from bqc.train.importance import measure_importance
from bqc.train.recipe import Recipe

__all__ = ["slim_recipe", "slimmed"]

MODEL = "model.onnx"


def slimmed(
    source: Path, task: Task, data: str | Path | None, width: float, folder: Path, *, seed: int
) -> Path:
    """The file of a model with a part of the heads and FFN neurons, chosen by the task's training rows; untrained.

    Args:
        source: the float ``.onnx`` file; tokenizer and configuration are copied from beside it.
        task, data: as in `bqc.evaluate.evaluate`.
        width: the part that stays, as `SlimWidth` has it.
        folder: where it is written.
        seed: of the rows.

    Raises:
        BqcError: as `measure_importance` and `SlimWidth` do.
    """
    if not 0 < width < 1:
        raise BqcError(f"the width is {width:g}; it is above 0 and at most 1")
    model = measure_importance(source, task, data, seed=seed)
    SlimWidth(width)(model)
    return write(model, folder / MODEL, single_file=True, side_files_from=source.parent)[0]


def slim_recipe(recipe: Recipe) -> Recipe:
    """How a slim model learns from the wide one before what ``recipe`` does: its hidden states and logits, for as long
    and as fast as the first stage there. Attention scores say nothing where the heads are fewer."""
    first = recipe.stages[0]
    losses = {"hidden": 1, "logits": 1}
    stage = {"name": "slim", "losses": losses, "epochs": first.epochs, "learning_rate": first.learning_rate}
    return Recipe.checked({**recipe.model_dump(mode="json"), "stages": [stage], "frozen": []}, "recipe")

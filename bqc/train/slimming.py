"""A narrower float model of a task: the first step of BinaryBERT."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bqc.artifact import tokenizer_files, write
from bqc.errors import BqcError
from bqc.evaluate.files import read_json
from bqc.evaluate.task import Task
from bqc.ir.anatomy import Encoder, encoder
from bqc.passes.slim_width import SlimWidth
from bqc.train.importance import measure_importance
from bqc.train.recipe import Recipe

__all__ = ["Kept", "slim_recipe", "slimmed"]

MODEL = "model.onnx"

_log = logging.getLogger(__name__)
_HEADS = ("num_attention_heads", "n_heads")
_FFN = ("intermediate_size", "hidden_dim")
"""Keys of config.json, the second DistilBERT's."""


@dataclass(frozen=True)
class Kept:
    """What of every layer a slim model has, as counts are rounded, and what the wide one had."""

    heads: int
    ffn: int
    heads_before: int
    ffn_before: int

    @classmethod
    def of(cls, slim: Encoder, wide: Encoder) -> Kept:
        """By what the models consist of."""
        return cls(slim.heads, slim.ffn, wide.heads, wide.ffn)

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.heads} of {self.heads_before} heads, {self.ffn} of {self.ffn_before} FFN neurons a layer"
        )


def slimmed(
    source: Path,
    task: Task,
    data: str | Path | None,
    width: float,
    folder: Path,
    *,
    seed: int,
    tokenizer: str | Path | None = None,
) -> Path:
    """The file of a model with a part of the heads and FFN neurons, chosen by the task's training rows; untrained.

    Args:
        source: the float ``.onnx`` file; tokenizer and configuration are copied from beside it, the counts of heads
            and neurons in config.json with their new values.
        task, data: as in `bqc.evaluate.evaluate`.
        width: the part that stays, as `SlimWidth` has it.
        folder: where it is written.
        seed: of the rows.
        tokenizer: folder of ``tokenizer.json``, if it is not beside the model.

    Raises:
        BqcError: as `measure_importance` and `SlimWidth` do.
    """
    if not 0 < width < 1:
        raise BqcError(f"the width is {width:g}; it is above 0 and at most 1")
    model = measure_importance(source, task, data, seed=seed, tokenizer=tokenizer)
    wide = encoder(model)
    SlimWidth(width)(model)
    kept = Kept.of(encoder(model), wide)
    _log.info("width %g keeps %s", width, kept)
    side_files = {} if tokenizer is None else tokenizer_files(Path(tokenizer))
    config = _narrowed(read_json(source.with_name("config.json")), kept)
    if config:
        side_files["config.json"] = f"{json.dumps(config, indent=2)}\n".encode()
    path = folder / MODEL
    return write(model, path, single_file=True, side_files_from=source.parent, side_files=side_files)[0]


def _narrowed(config: dict[str, Any], kept: Kept) -> dict[str, Any]:
    """config.json with the counts of the slim model, where it has them."""
    counts = {**dict.fromkeys(_HEADS, kept.heads), **dict.fromkeys(_FFN, kept.ffn)}
    return {key: counts.get(key, value) for key, value in config.items()}


def slim_recipe(recipe: Recipe) -> Recipe:
    """How a slim model learns from the wide one before what ``recipe`` does: its hidden states and logits, for as long
    and as fast as the first stage there. Attention scores say nothing where the heads are fewer."""
    first = recipe.stages[0]
    losses = {"hidden": 1, "logits": 1}
    stage = {"name": "slim", "losses": losses, "epochs": first.epochs, "learning_rate": first.learning_rate}
    return Recipe.checked({**recipe.model_dump(mode="json"), "stages": [stage], "frozen": []}, "recipe")

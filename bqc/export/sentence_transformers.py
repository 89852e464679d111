"""What the files of sentence-transformers beside a checkpoint say of pooling and normalisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from bqc.errors import BqcError

__all__ = ["Pooling", "normalizes", "pooling_of"]

Pooling = Literal["mean", "cls", "pooler", "none"]


def pooling_of(where: Path) -> Pooling:
    """What 1_Pooling (sentence-transformers) says: the mean, or the first token; anything else is refused."""
    file = where / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    chosen = [
        k for k, v in json.loads(file.read_text()).items() if k.startswith("pooling_mode_") and v is True
    ]
    known: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(chosen) > 1 or (chosen and chosen[0] not in known):
        raise BqcError(
            f"{file}: only mean and first-token pooling are exported, this model uses {', '.join(chosen)}"
        )
    return known[chosen[0]] if chosen else "mean"


def normalizes(where: Path) -> bool:
    """Does modules.json (sentence-transformers) end in normalisation? Modules with weights are refused."""
    modules = where / "modules.json"
    if not modules.is_file():
        return False
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in json.loads(modules.read_text())]
    others = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if others:
        raise BqcError(
            f"{modules}: the module {others[0]} is not exported; give --normalize or --no-normalize"
        )
    return "Normalize" in kinds

"""What import mended or left alone, for the summary: travels with the model in memory, never in a file."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["note", "notes"]

_KEY = "bqc.import_notes"


def note(item: ir.Model | ir.Graph, text: str) -> None:
    """Add a line, once, to a model or to its main graph."""
    known = item.meta.setdefault(_KEY, [])
    if text not in known:
        known.append(text)


def notes(model: ir.Model) -> tuple[str, ...]:
    """The lines so far."""
    return (*model.meta.get(_KEY, ()), *model.graph.meta.get(_KEY, ()))

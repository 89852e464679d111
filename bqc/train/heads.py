"""Which outputs of a graph are trained on a task."""

from __future__ import annotations

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.evaluate.predict import find_head
from bqc.evaluate.task import Task

__all__ = ["trained_head"]


def trained_head(model: ir.Model, task: Task) -> tuple[tuple[str, ...], int]:
    """The outputs that are trained, and what they score: classes of a text, tags or ends of a token.

    Raises:
        BqcError: no output scores that.
    """
    shapes = {value.name or "": list(value.shape or ()) for value in model.graph.outputs}
    head = find_head({name: len(shape) for name, shape in shapes.items()}, task.kind)
    if head.embeds:
        raise BqcError(f"output {head.outputs[0]} scores no classes of a text; train a classification model")
    if len(head.outputs) > 1:
        return head.outputs, len(head.outputs)
    width = shapes[head.outputs[0]][-1]
    if not isinstance(width, int):
        raise BqcError(f"output {head.outputs[0]} does not say how many classes it scores")
    return head.outputs, width

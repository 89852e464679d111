"""Shape inference, without the log lines of the library that does it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common

__all__ = ["infer_shapes", "quiet"]

_SEQUENCES = frozenset(
    ("SplitToSequence", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert")
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What onnx_ir warns of is reported as an error where it matters, in one line."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def infer_shapes(model: ir.Model) -> bool:
    """Add types and shapes that follow from others; whether any did. A graph that contradicts itself stays as it is."""
    with quiet():
        modified = common.ShapeInferencePass()(model).modified
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in _SEQUENCES:
            _make_sequence(node.outputs[0])
    return modified


def _make_sequence(value: ir.Value) -> None:
    """The library writes the type of a sequence's elements on the sequence."""
    if isinstance(value.type, ir.TensorType):
        value.type, value.shape = ir.SequenceType(value.type), None

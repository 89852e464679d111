"""The key padding mask of attention: where a softmax reads it, and as integers for operators that take it so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import nodes_of, role
from bqc.ir.build import Writer
from bqc.passes._graph import produced_by, standard_node

__all__ = ["KeyMasks", "mask_cast", "masked"]

INT64 = ir.DataType.INT64


def masked(softmax: ir.Node) -> tuple[ir.Node | None, ir.Node | None]:
    """The Add under a Softmax, and what makes the mask that it adds: a bias of positions is none."""
    add = produced_by(softmax.inputs[0], "Add")
    added = add.inputs[1].producer() if add is not None and add.inputs[1] is not None else None
    return add, added if added is not None and role(added) == "attention.mask" else None


def mask_cast(node: ir.Node | None) -> ir.Node | None:
    """The Cast that a mask as `masked` tells of starts with."""
    for op_type, at in (("Mul", 0), ("Sub", 1), ("Unsqueeze", 0)):
        if node is not None and node.op_type == op_type:
            source = node.inputs[at]
            node = None if source is None else source.producer()
    return node if node is not None and node.op_type == "Cast" else None


class KeyMasks:
    """The masks of a model as int64 [B, S], each made once."""

    def __init__(self, model: ir.Model) -> None:
        self._model, self._writer = model, Writer(model.graph)
        self._made: dict[ir.Value | None, ir.Value] = {}

    def of(self, cast: ir.Node | None) -> ir.Value:
        """The mask that ``cast`` reads; all ones where there is none."""
        source = None if cast is None else cast.inputs[0]
        if source not in self._made:
            self._made[source] = self._ones() if cast is None else self._integers(cast)
        return self._made[source]

    def _integers(self, cast: ir.Node) -> ir.Value:
        source = cast.inputs[0]
        assert source is not None, "a Cast has an input"
        if source.dtype == INT64:
            return source
        shape = None if source.shape is None else list(source.shape)
        made = standard_node("Cast", [source], {"to": INT64}, like=cast, dtype=INT64, shape=shape)
        self._model.graph.insert_before(cast, made)
        return made.outputs[0]

    def _ones(self) -> ir.Value:
        # The ids, or where no lookup of words is recognised the hidden state [B, S, H], say how many.
        model = self._model
        word = next((n for n in nodes_of(model, role="embedding.word") if n.op_type == "Gather"), None)
        like = word or next(n for n in nodes_of(model, role="attention.query") if _reads_hidden(n))
        sized = like.inputs[1 if like is word else 0]
        assert sized is not None, "both have inputs"
        one = self._writer.shared("bqc.one", np.array(1, np.int64))
        size = standard_node("Shape", [sized], {"start": 0, "end": 2}, like=like, dtype=INT64, shape=[2])
        ones = standard_node(
            "Expand",
            [one, size.outputs[0]],
            {},
            like=like,
            dtype=INT64,
            shape=None if sized.shape is None else list(sized.shape)[:2],
        )
        model.graph.insert_before(like, [size, ones])
        return ones.outputs[0]


def _reads_hidden(node: ir.Node) -> bool:
    """Whether a node that makes queries reads the hidden state: others restore its weight."""
    return node.inputs[0] is not None and not node.inputs[0].is_initializer()

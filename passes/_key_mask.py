"""The key padding mask of attention: where a softmax reads it, and as integers for operators that take it so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import nodes_of, role
from bqc.ir.build import Writer
from bqc.passes._graph import dims, produced_by, standard_node

__all__ = ["KeyMasks", "mask_cast", "masked", "sized"]

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


def sized(model: ir.Model) -> tuple[ir.Node, ir.Value] | None:
    """What says how many sequences and tokens there are, [B, S] or [B, S, H], and a node that reads it; if any does."""
    # The ids, or where no lookup of words is recognised the hidden state.
    word = next((n for n in nodes_of(model, role="embedding.word") if n.op_type == "Gather"), None)
    reader = word or next((n for n in nodes_of(model, role="attention.query") if _reads_hidden(n)), None)
    if reader is None:
        return None
    tokens = reader.inputs[1 if reader is word else 0]
    assert tokens is not None, "both have inputs"
    return reader, tokens


class KeyMasks:
    """The masks of a model as int64 [B, S], each made once. One that may be of a single row is repeated for all."""

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
        mask, made = source, list[ir.Node]()
        if source.dtype != INT64:
            shape = None if source.shape is None else list(source.shape)
            made.append(standard_node("Cast", [source], {"to": INT64}, like=cast, dtype=INT64, shape=shape))
            mask = made[0].outputs[0]
        at, found = cast, sized(self._model)
        if found is not None and _may_be_one_row(source, found[1]):
            made.extend(self._repeated(mask, found[1], cast))
            mask = made[-1].outputs[0]
            # Both are known before the later of the nodes that read them.
            at = next(node for node in reversed(self._model.graph) if node in (cast, found[0]))
        self._model.graph.insert_before(at, made)
        return mask

    def _ones(self) -> ir.Value:
        found = sized(self._model)
        assert found is not None, "there is attention"
        reader, tokens = found
        made = self._repeated(self._writer.shared("bqc.one", np.array(1, np.int64)), tokens, reader)
        self._model.graph.insert_before(reader, made)
        return made[-1].outputs[0]

    def _repeated(self, value: ir.Value, tokens: ir.Value, like: ir.Node) -> list[ir.Node]:
        """A value for every token; the last node makes it."""
        size = standard_node("Shape", [tokens], {"start": 0, "end": 2}, like=like, dtype=INT64, shape=[2])
        shape = None if tokens.shape is None else list(tokens.shape)[:2]
        return [
            size,
            standard_node("Expand", [value, size.outputs[0]], {}, like=like, dtype=INT64, shape=shape),
        ]


def _may_be_one_row(mask: ir.Value, tokens: ir.Value) -> bool:
    return mask.shape is not None and tokens.shape is not None and dims(mask)[:1] != dims(tokens)[:1]


def _reads_hidden(node: ir.Node) -> bool:
    """Whether a node that makes queries reads the hidden state: others restore its weight."""
    return node.inputs[0] is not None and not node.inputs[0].is_initializer()

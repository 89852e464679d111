"""Padding costs nothing: the layers run on the tokens of a batch alone, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.anatomy import EMBEDDING, HEAD, VALUE_KEY, layer, role
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ops.registry import DOMAIN
from bqc.passes._graph import attributes_of, block_node, constant, dims, infer_types
from bqc.passes._key_mask import sized
from bqc.passes._padding import ATTENTION, TOKENS, check_by_token, check_readers, mask_of, reads_first

__all__ = ["Unpad"]

I64, BOOL = ir.DataType.INT64, ir.DataType.BOOL
_RAGGED = tuple(f"Ragged{one}" for one in ATTENTION)


@dataclass(frozen=True)
class Unpad(ir.passes.InPlacePass):
    """Take the padding out of a batch before the first layer, and put it back behind the last where it is read.

    Before::

        v, ev = BlockLinearQuantizeValues(x [B, S, H], ..., mask)
        c, ec = BlockAttention(q, eq, k, ek, v, ev, mask)
        first = Gather(y [B, S, H], 0; axis=1)

    After::

        x' [tokens, H] = GatherND(x, places)
        v, ev = RaggedBlockQuantizeValues(BlockLinear(x', ...), mask', seq_start)
        c, ec = RaggedBlockAttention(q, eq, k, ek, v, ev, mask', seq_start)
        first = Gather(y' [tokens, H], firsts; axis=0)

    and so with FloatAttention. ``places`` are where the mask is not 0, the first of every sequence, and all of a
    sequence that the mask hides whole. Who reads more than the first tokens gets [B, S, H] back with zeros at the
    places left out. Contract: exact where the layers are compiled whole (a float MatMul may sum other rows in another
    order, and ONNX Runtime fuse norms of [B, S, H] alone), but for outputs of tokens at hidden places.

    Raises:
        BqcError: a layer is not compiled whole, or has another mask; there is no mask; or what follows the layers reads
            places that the mask hides.
    """

    contract = Contract("ulp", but_hidden=True)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if any(node.op_type in _RAGGED for node in model.graph):
            return ir.passes.PassResult(model, False)
        layers = _layers(model)
        check_by_token(layers)
        mask = mask_of(layers)
        check_readers((value for node in layers for value in node.outputs), set(layers), mask)
        if not may_rewrite(layers[0]):
            return ir.passes.PassResult(model, False)
        found = sized(model)
        if found is None:
            raise BqcError("padding cannot be taken out: no node is known to read the ids or to make queries")
        _Batch(model, mask, found[1], layers).run()
        model.graph.sort()
        return ir.passes.PassResult(model, True)


def _layers(model: ir.Model) -> list[ir.Node]:
    """Nodes of the layers, without those that read the last one's first tokens under its name."""
    layers, readers = [], set[ir.Node]()
    for node in model.graph:
        if reads_first(node) or any(
            value is not None and value.producer() in readers for value in node.inputs
        ):
            readers.add(node)
        elif layer(node) not in (None, EMBEDDING, HEAD):
            layers.append(node)
    return layers


class _Batch:
    """Where the tokens of a batch are, and the layers that are to run on them."""

    def __init__(self, model: ir.Model, mask: ir.Value, tokens: ir.Value, layers: list[ir.Node]) -> None:
        self._graph, self._layers, self._inside = model.graph, layers, set(layers)
        self._writer = Writer(model.graph).at(EMBEDDING, "attention.mask")
        self._size = [*dims(mask)]
        self._taken: dict[ir.Value, ir.Value] = {}
        # Of another size than the tokens it would take other places without a word; so it is refused, or repeated.
        size = self._op("Shape", tokens, shape=[2], start=0, end=2)
        mask = self._op("Expand", mask, size, shape=self._size, dtype=I64)
        kept = self._kept(mask)
        found = self._op("NonZero", kept, shape=[2, TOKENS])
        self._places = self._op("Transpose", found, shape=[TOKENS, 2], perm=[1, 0])
        lengths = self._op("ReduceSum", self._number(kept), self._axis(1), shape=self._size[:1], keepdims=0)
        ends = self._op("CumSum", lengths, self._int(0), shape=self._size[:1])
        self._firsts = self._op("Sub", ends, lengths, shape=self._size[:1])
        self._seq_start = self._op("Concat", self._axis(0), ends, shape=[None], axis=0)
        self._padded_size = self._op("Shape", mask, shape=[2])
        self._mask = self._take(mask)

    def run(self) -> None:
        """Rewrite the layers and what reads them."""
        for node in self._layers:
            self._enter(node)
        for node in [node for node in self._graph if node in self._inside]:
            for value in node.outputs:
                self._leave(value, node)
        self._graph.insert_before(self._graph[0], self._writer.nodes)

    def _kept(self, mask: ir.Value) -> ir.Value:
        """Places that stay, bool [B, S]."""
        both, each, row = self._size, [self._size[0], 1], self._size[1:]
        shown = self._op("Cast", mask, shape=both, dtype=BOOL, to=int(BOOL))
        count = self._op("ReduceSum", self._number(shown), self._axis(1), shape=each, keepdims=1)
        dead = self._op("Equal", count, self._int(0), shape=each, dtype=BOOL)
        width = self._op("Shape", mask, shape=[1], start=1, end=2)
        length = self._op("Squeeze", width, shape=[])
        at = self._op("Range", self._int(0), length, self._int(1), shape=row)
        first = self._op("Equal", at, self._int(0), shape=row, dtype=BOOL)
        needed = self._op("Or", shown, first, shape=both, dtype=BOOL)
        return self._op("Or", needed, dead, shape=both, dtype=BOOL)

    def _enter(self, node: ir.Node) -> None:
        """Let a node of the layers read and make tokens."""
        for at, value in enumerate(node.inputs):
            if value is None or value.is_initializer() or value.producer() in self._inside:
                continue
            node.replace_input_with(at, self._mask if len(dims(value)) == 2 else self._take(value))
        made = self._ragged(node)
        if made:
            self._graph.insert_before(node, made)
            ir.convenience.replace_all_uses_with(node.outputs, made[-1].outputs)
            for old, new in zip(node.outputs, made[-1].outputs, strict=True):
                new.name, old.name = old.name, None
                if old.shape is not None and len(old.shape) == 2:
                    new.shape = old.shape  # exponents of values: one row a sequence, as before
            self._graph.remove(node)
            self._inside.update(made)
        elif node.domain == DOMAIN:
            infer_types(node)
        else:
            (out,) = node.outputs
            out.shape = ir.Shape([TOKENS, *dims(out)[2:]])

    def _ragged(self, node: ir.Node) -> list[ir.Node]:
        """What takes the place of a node that looks at all tokens of a sequence."""
        attributes = attributes_of(node)
        inputs = [value for value in node.inputs if value is not None]
        made: list[ir.Node] = []
        if node.op_type.endswith("LinearQuantizeValues"):
            own = {"heads": attributes.pop("heads")}
            own |= {name: attributes.pop(f"out_{name}") for name in ("bits", "block")}
            product = node.op_type.removesuffix("QuantizeValues")
            made.append(block_node(product, inputs[:-1], attributes, like=node))
            values = [made[0].outputs[0], self._mask, self._seq_start]
            made.append(block_node("RaggedBlockQuantizeValues", values, own, like=node))
        elif node.op_type in ("BlockQuantizeValues", *ATTENTION):
            made.append(
                block_node(f"Ragged{node.op_type}", [*inputs, self._seq_start], attributes, like=node)
            )
        if made and VALUE_KEY in node.metadata_props:
            made[-1].metadata_props[VALUE_KEY] = node.metadata_props[VALUE_KEY]
        return made

    def _leave(self, value: ir.Value, node: ir.Node) -> None:
        """Give those outside of the layers what they read of a value."""
        outside = [(user, at) for user, at in value.uses() if user not in self._inside]
        rest = [(user, at) for user, at in outside if not reads_first(user)]
        for user, _ in outside:
            if reads_first(user):
                self._read_first(user)
        if not rest and not value.is_graph_output():
            return
        padded = self._put_back(value, node)
        for user, at in rest:
            user.replace_input_with(at, padded)
        if value.is_graph_output():
            outputs = self._graph.outputs
            outputs[list(outputs).index(value)] = padded
            padded.name, value.name = value.name, None
            value.shape = ir.Shape([TOKENS, dims(value)[-1]])

    def _read_first(self, user: ir.Node) -> None:
        index = constant(user.inputs[1])
        assert index is not None, "it reads the first"
        firsts = self._firsts
        if index.ndim:
            firsts = self._op("Unsqueeze", firsts, self._axis(1), shape=[self._size[0], 1])
        user.replace_input_with(1, firsts)
        user.attributes["axis"] = ir.AttrInt64("axis", 0)

    def _take(self, value: ir.Value) -> ir.Value:
        """The tokens [tokens, ...] of a value [B, S, ...]."""
        if value not in self._taken:
            shape = [TOKENS, *dims(value)[2:]]
            self._taken[value] = self._op("GatherND", value, self._places, shape=shape, dtype=value.dtype)
        return self._taken[value]

    def _put_back(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """[B, S, K] of tokens [tokens, K], zero where there is none."""
        assert value.dtype is not None, "canonical values are typed"
        width = dims(value)[-1]
        self._writer.at(layer(node), role(node))
        kind = value.dtype.numpy()
        size = self._op("Concat", self._padded_size, self._axis(width), shape=[3], axis=0)
        zero = self._writer.shared(f"bqc.zero_{kind.name}", np.zeros((), kind))
        shape = [*self._size, width]
        empty = self._op("Expand", zero, size, shape=shape, dtype=value.dtype)
        return self._op("ScatterND", empty, self._places, value, shape=shape, dtype=value.dtype)

    def _number(self, flags: ir.Value) -> ir.Value:
        return self._op("Cast", flags, shape=self._size, to=int(I64))

    def _int(self, number: int) -> ir.Value:
        return self._writer.shared(f"bqc.int_{number}", np.array(number, np.int64))

    def _axis(self, number: int) -> ir.Value:
        return self._writer.shared(f"bqc.axis_{number}", np.array([number], np.int64))

    def _op(self, op_type: str, *inputs: ir.Value, dtype: ir.DataType | None = I64, **more: Any) -> ir.Value:
        return self._writer.op(op_type, *inputs, dtype=dtype or I64, **more)

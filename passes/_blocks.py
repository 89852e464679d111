"""The two blocks of every layer of an annotated float model, node by node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.anatomy import encoder, layer, role
from bqc.ir.match import Linear, as_linear, constant

__all__ = ["Attention", "Ffn", "Layer", "layers_of"]

_PROJECTION = ("MatMul", "Add", "Reshape", "Transpose")
_LINEAR = ("MatMul", "Add")
_ACTIVATIONS = (("Gelu",), ("Relu",))


@dataclass(frozen=True)
class Attention:
    """From query, key and value to the linear after the context.

    Attributes:
        query, key, value, output: the linears.
        splits: the three Reshape to ``[0, 0, heads, head_dim]``.
        merge: the Reshape to ``[0, 0, heads * head_dim]``.
        softmax: the Softmax.
        values: value -> the axis along which its heads lie, one element a head.
        merged: values whose last axis has the heads side by side.
        bias: the Add of relative positions ``[1|B, 1|h, S, S]`` to the scores, where there is one.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    splits: tuple[ir.Node, ...]
    merge: ir.Node
    softmax: ir.Node
    values: Mapping[ir.Value, int]
    merged: tuple[ir.Value, ...]
    bias: ir.Node | None
    heads: int
    head_dim: int


@dataclass(frozen=True)
class Ffn:
    """Two linears and what is between them, whose last axis has the neurons."""

    inner: Linear
    activation: ir.Node
    outer: Linear

    @property
    def neurons(self) -> int:
        """How many."""
        return _size(self.inner.weight, 1)

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """What has one element a neuron."""
        return (*(node.outputs[0] for node in self.inner.nodes), self.activation.outputs[0])


@dataclass(frozen=True)
class Layer:
    """One layer, by its number."""

    name: str
    attention: Attention
    ffn: Ffn


def layers_of(model: ir.Model) -> list[Layer]:
    """Every layer of an annotated float model.

    Raises:
        BqcError: the model is not annotated, or a layer is not whole in the canonical form; the first one is named.
    """
    found = encoder(model)
    for i in range(found.layers):
        whole = (f"{i}:attention", f"{i}:ffn", f"{i}:ffn.gelu")
        part = next((part for part in found.float_parts if part.part in whole), None)
        if part is not None:
            raise BqcError(f"layer {i} is not whole in the canonical form: {part}")
    nodes: dict[tuple[str, str], list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        nodes[layer(node) or "", role(node) or ""].append(node)
    return [_layer(str(i), nodes) for i in range(found.layers)]


class _Other(Exception):
    """The text says which role is not as the canonical form has it."""


def _layer(name: str, nodes: Mapping[tuple[str, str], Sequence[ir.Node]]) -> Layer:
    def of(role: str, *forms: tuple[str, ...]) -> Sequence[ir.Node]:
        found = nodes.get((name, role), ())
        if tuple(n.op_type for n in found) not in forms or any(n.domain for n in found):
            raise _Other(f"{role} ({', '.join(n.op_type for n in found) or 'nothing'})")
        return found

    def linear(role: str, found: Sequence[ir.Node]) -> Linear:
        made = as_linear(found[1].outputs[0])
        if made is None:
            raise _Other(f"{role} (its weight or bias is no initializer)")
        return made

    try:
        query, key, value = (of(f"attention.{one}", _PROJECTION) for one in ("query", "key", "value"))
        adds = [("MatMul", "Mul", *["Add"] * n) for n in range(3)]
        scores = of("attention.scores", *adds)
        (softmax,) = of("attention.softmax", ("Softmax",))
        context = of("attention.context", ("MatMul", "Transpose", "Reshape"))
        output = of("attention.output", _LINEAR)
        inner, (activation,), outer = (
            of("ffn.intermediate", _LINEAR),
            of("ffn.gelu", *_ACTIVATIONS),
            of("ffn.output", _LINEAR),
        )
        target = constant(query[2].inputs[1])
        if target is None or target.shape != (4,):
            raise _Other("attention.query (its heads are not split by a constant)")
        attention = Attention(
            linear("attention.query", query),
            linear("attention.key", key),
            linear("attention.value", value),
            linear("attention.output", output),
            splits=(query[2], key[2], value[2]),
            merge=context[2],
            softmax=softmax,
            values=dict(_with_heads(query, key, value, scores, softmax, context)),
            merged=(
                *(node.outputs[0] for one in (query, key, value) for node in one[:2]),
                context[2].outputs[0],
            ),
            bias=next((n for n in scores[2:] if _adds_positions(n)), None),
            heads=int(target[2]),
            head_dim=int(target[3]),
        )
        ffn = Ffn(linear("ffn.intermediate", inner), activation, linear("ffn.output", outer))
        _require_chain(attention, ffn)
    except _Other as other:
        raise BqcError(f"layer {name} is not whole in the canonical form: {other}") from None
    return Layer(name, attention, ffn)


def _with_heads(
    query: Sequence[ir.Node],
    key: Sequence[ir.Node],
    value: Sequence[ir.Node],
    scores: Sequence[ir.Node],
    softmax: ir.Node,
    context: Sequence[ir.Node],
) -> Iterator[tuple[ir.Value, int]]:
    for one in (query, key, value):
        yield one[2].outputs[0], 2
        yield one[3].outputs[0], 1
    for node in (*scores, softmax, context[0]):
        yield node.outputs[0], 1
    yield context[1].outputs[0], 2


def _adds_positions(add: ir.Node) -> bool:
    added = add.inputs[1]
    return added is not None and role(added.producer() or added) == "attention.bias"


def _require_chain(attention: Attention, ffn: Ffn) -> None:
    """What one node makes is what the next one reads, and all widths are those of the heads and neurons."""
    width = attention.heads * attention.head_dim
    for name in ("query", "key", "value"):
        if _size(getattr(attention, name).weight, 1) != width:
            raise _Other(f"attention.{name} (not {attention.heads} heads of {attention.head_dim})")
    if attention.output.x is not attention.merge.outputs[0] or _size(attention.output.weight, 0) != width:
        raise _Other("attention.output (it does not read the context)")
    if ffn.activation.inputs[0] is not ffn.inner.out or ffn.outer.x is not ffn.activation.outputs[0]:
        raise _Other("ffn.gelu (it is not between the two linears)")


def _size(value: ir.Value, axis: int) -> int:
    assert value.const_value is not None, "weights of linears are initializers"
    return int(value.const_value.shape.numpy()[axis])

"""Label every node and weight of a canonical encoder with its layer and role."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.anatomy import EMBEDDING, HEAD, LAYER_KEY, ROLE_KEY, TABLE_ROLES, label, record
from bqc.ir.explain import explanation
from bqc.ir.match import Linear, as_linear, constant, is_transposed, is_weight, scalar, walk_back
from bqc.ir.notes import note
from bqc.ir.unsupported import unsupported

__all__ = ["AnnotateAnatomy"]


class _Broken(Exception):
    """The chain from one layer to the next does not continue; the text says what was expected."""


@dataclass(frozen=True)
class AnnotateAnatomy(ir.passes.InPlacePass):
    """Walk the canonical form from the embedding to the last layer and write labels on the way.

    Before: `y = LayerNormalization(...)`
    After: `y = LayerNormalization(...)  {bqc.layer: "3", bqc.role: "ffn.norm"}`, its gamma and beta likewise

    1. The embedding is the LayerNormalization of two or three summed table lookups, and where the tables
       are narrower than the layers, the linear after it.
    2. A layer continues from a hidden state through query, key and value to two LayerNormalizations. A
       weight that several layers share carries the labels of the first.
    3. Linears after the last layer are `pooler` (followed by Tanh), `head.transform` (followed by another
       activation) or `head`.
    4. Nodes are renamed after their labels, so that a viewer shows the anatomy; the summary of it all is
       recorded in the model's metadata.

    Raises:
        BqcError: no encoder, or an attention that belongs to no layer; the message names the nearest miss.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        norm = _embedding(graph)
        if norm is None:
            raise BqcError(_nothing_found(model, "word + type + position embedding lookups"))
        hidden, layers = _projected(norm.outputs[0]), 0
        try:
            while _starts_layer(hidden):
                hidden = _layer(hidden, str(layers))
                layers += 1
        except _Broken as broken:
            raise BqcError(_half_found(model, layers, str(broken))) from broken
        if not layers:
            raise BqcError(_nothing_found(model, "query, key and value linears feeding an attention"))
        loose = [n for n in graph if n.op_type == "Softmax" and ROLE_KEY not in n.metadata_props]
        if any(len(walk_back(n.inputs[0], _is_product)) for n in loose if n.inputs[0] is not None):
            raise BqcError(_half_found(model, layers, "an attention of the canonical form"))
        _head(graph)
        _note_tied(model)
        _name(graph)
        record(model)
        return ir.passes.PassResult(model, True)


def _embedding(graph: ir.Graph) -> ir.Node | None:
    for norm in graph:
        x = norm.inputs[0] if norm.op_type == "LayerNormalization" else None
        outer = x.producer() if x is not None else None
        if outer is None or outer.op_type != "Add":
            continue
        inner = outer.inputs[0].producer() if outer.inputs[0] is not None else None
        sums = [inner, outer] if inner is not None and inner.op_type == "Add" else [outer]
        terms = [*sums[0].inputs, *(n.inputs[1] for n in sums[1:])]
        lookups = [v.producer() if v is not None else None for v in terms]
        if any(n is None or n.op_type != "Gather" or not is_weight(n.inputs[0], 2) for n in lookups):
            continue
        roles = TABLE_ROLES if len(lookups) == 3 else (TABLE_ROLES[0], TABLE_ROLES[2])
        for node, role in zip(lookups, roles, strict=True):
            if node is not None:
                _put(EMBEDDING, role, node)
        _put(EMBEDDING, "embedding.sum", *sums)
        _put(EMBEDDING, "embedding.norm", norm)
        return norm
    return None


def _projected(x: ir.Value) -> ir.Value:
    """The first layer's input: the embedding itself, or what a linear makes of it."""
    linears = list(_linears(x))
    if len(linears) != 1 or len(x.consumers()) != 1 or not _starts_layer(linears[0].out):
        return x
    _put(EMBEDDING, "embedding.projection", *linears[0].nodes)
    return linears[0].out


def _starts_layer(hidden: ir.Value) -> bool:
    return sum(u.op_type == "MatMul" and u.inputs[0] is hidden for u in hidden.consumers()) >= 3


def _layer(hidden: ir.Value, layer: str) -> ir.Value:
    projections = {
        role: linear for linear in _linears(hidden) if (role := _projection_role(linear)) is not None
    }
    missing = [r for r in ("attention.query", "attention.key", "attention.value") if r not in projections]
    if missing:
        raise _Broken(f"the {missing[0].split('.')[1]} of an attention")
    for role, linear in projections.items():
        reshape = _next(linear.out, "Reshape")
        transpose = _next(reshape.outputs[0], "Transpose")
        order = [0, 2, 3, 1] if role == "attention.key" else [0, 2, 1, 3]
        _require(_target(reshape)[:2] == [0, 0] and len(_target(reshape)) == 4, f"{role} split [0, 0, h, d]")
        _require(_perm(transpose) == order, f"{role} transposed by {order}")
        _put(layer, role, *linear.nodes, reshape, transpose)
    reshape = _next(projections["attention.query"].out, "Reshape")
    scores = _next(_next(reshape.outputs[0], "Transpose").outputs[0], "MatMul")
    scaled = _next(scores.outputs[0], "Mul")
    _require(scalar(scaled.inputs[1]) is not None, "attention scores times a number")
    softmax, sums = _next(scaled.outputs[0], "Add", "Softmax"), list[ir.Node]()
    while softmax.op_type == "Add" and len(sums) < 2:
        sums.append(softmax)
        softmax = _next(softmax.outputs[0], "Add", "Softmax")
    added = [_role_of(node.inputs[1]) for node in sums]
    _require(
        added in ([], ["attention.mask"], ["attention.bias"], ["attention.bias", "attention.mask"]),
        "attention scores with the padding mask added",
    )
    _require(softmax.op_type == "Softmax", "Softmax of the attention scores")
    _require(softmax.attributes.get_int("axis", -1) in (-1, 3), "Softmax over the last axis")
    _put(layer, "attention.scores", scores, scaled, *sums)
    _put(layer, "attention.softmax", softmax)
    context = _next(softmax.outputs[0], "MatMul")
    turned = _next(context.outputs[0], "Transpose")
    merged = _next(turned.outputs[0], "Reshape")
    _require(_perm(turned) == [0, 2, 1, 3] and _target(merged)[:2] == [0, 0], "heads merged to [0, 0, H]")
    _put(layer, "attention.context", context, turned, merged)
    attended = _block(layer, merged.outputs[0], hidden, "attention.output", "attention.norm")
    inner = _one_linear(attended, "the first linear of an FFN")
    _put(layer, "ffn.intermediate", *inner.nodes)
    gelu = _next(inner.out, "Gelu")
    _put(layer, "ffn.gelu", gelu)
    return _block(layer, gelu.outputs[0], attended, "ffn.output", "ffn.norm")


def _block(layer: str, x: ir.Value, residual: ir.Value, linear_role: str, norm_role: str) -> ir.Value:
    """Linear, residual sum, LayerNormalization; returns the normalised value."""
    linear = _one_linear(x, f"the linear of {linear_role}")
    total = _next(linear.out, "Add")
    if total.inputs[0] is not linear.out or total.inputs[1] is not residual:
        raise _Broken(f"a residual sum after {linear_role}")
    norm = _next(total.outputs[0], "LayerNormalization")
    axis = norm.attributes.get_int("axis", -1)
    _require(axis in (-1, 2), f"a LayerNormalization over the last axis after {linear_role} (axis is {axis})")
    _put(layer, linear_role, *linear.nodes)
    _put(layer, norm_role, total, norm)
    return norm.outputs[0]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _Broken(what)


def _target(reshape: ir.Node) -> list[int]:
    found = constant(reshape.inputs[1])
    return [] if found is None else [int(n) for n in found.reshape(-1)]


def _perm(transpose: ir.Node) -> list[int]:
    return list(transpose.attributes.get_ints("perm", ()) or ())


def _role_of(value: ir.Value | None) -> str | None:
    node = None if value is None else value.producer()
    return None if node is None else node.metadata_props.get(ROLE_KEY)


def _projection_role(linear: Linear) -> str | None:
    """Query, key or value, by what the split heads are multiplied with."""
    split = _use(linear.out, "Reshape")
    turned = _use(split.outputs[0], "Transpose") if split is not None else None
    product = _use(turned.outputs[0], "MatMul") if turned is not None else None
    if turned is None or product is None:
        return None
    if product.inputs[0] is turned.outputs[0]:
        return "attention.query"
    first = product.inputs[0].producer() if product.inputs[0] is not None else None
    return "attention.value" if first is not None and first.op_type == "Softmax" else "attention.key"


def _linears(x: ir.Value) -> Iterable[Linear]:
    for use in x.consumers():
        add = _use(use.outputs[0], "Add") if use.op_type == "MatMul" else None
        linear = as_linear(add.outputs[0]) if add is not None else None
        if linear is not None and linear.x is x:
            yield linear


def _one_linear(x: ir.Value, what: str) -> Linear:
    found = list(_linears(x))
    if len(found) != 1:
        raise _Broken(f"{what} (found {len(found)} linears)")
    return found[0]


def _use(value: ir.Value, op_type: str) -> ir.Node | None:
    return next((u for u in value.consumers() if u.op_type == op_type), None)


def _next(value: ir.Value, *op_types: str) -> ir.Node:
    uses = value.consumers()
    found = [u for u in uses if u.op_type in op_types]
    if len(found) != 1:
        names = ", ".join(u.op_type for u in uses) or "nothing"
        producer = value.producer()
        after = producer.op_type if producer is not None else value.name
        raise _Broken(f"{' or '.join(op_types)} after {after} (but {names})")
    return found[0]


def _is_product(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "MatMul" and not any(is_weight(v) for v in node.inputs)


def _head(graph: ir.Graph) -> None:
    for node in graph:
        linear = as_linear(node.outputs[0]) if ROLE_KEY not in node.metadata_props else None
        if linear is None:
            continue
        tanh = _use(linear.out, "Tanh")
        activation = _use(linear.out, "Gelu") or _use(linear.out, "Relu")
        first = linear.x.producer()
        if tanh is not None:
            _put(HEAD, "pooler", *linear.nodes, tanh)
        elif activation is not None:
            _put(HEAD, "head.transform", *linear.nodes, activation)
            norm = _use(activation.outputs[0], "LayerNormalization")
            if norm is not None:
                _put(HEAD, "head.norm", norm)
        else:
            _put(HEAD, "head", *linear.nodes)
        if first is not None and first.op_type == "Gather" and ROLE_KEY not in first.metadata_props:
            _put(HEAD, node.metadata_props[ROLE_KEY], first)


def _note_tied(model: ir.Model) -> None:
    """A decoder that is the word table transposed: a lookup and a product read different layouts of it."""
    tables = [n.inputs[0] for n in model.graph if n.metadata_props.get(ROLE_KEY) == TABLE_ROLES[0]]
    word = next((v for v in tables if v is not None and is_weight(v, 2)), None)
    for node in model.graph:
        weight = (
            node.inputs[1] if node.op_type == "MatMul" and node.metadata_props.get(ROLE_KEY) == HEAD else None
        )
        if word is not None and weight is not None and is_transposed(word, weight):
            note(
                model,
                "the decoder is the word table: it is stored for the lookup and, transposed, for the product",
            )


def _put(layer: str, role: str, *nodes: ir.Node) -> None:
    for node in nodes:
        label(node, layer, role)
        for value in node.inputs:
            if (
                value is not None
                and is_weight(value)
                and _is_own(value)
                and ROLE_KEY not in value.metadata_props
            ):
                label(value, layer, role)


def _is_own(value: ir.Value) -> bool:
    """Weights are float and larger than a number; shapes, scales and indices are shared by layers."""
    return value.dtype is ir.DataType.FLOAT and value.shape is not None and len(value.shape) > 0


def _name(graph: ir.Graph) -> None:
    counts: dict[str, int] = {}
    for node in graph:
        layer, role = node.metadata_props.get(LAYER_KEY), node.metadata_props.get(ROLE_KEY)
        if layer is None or role is None:
            continue
        place = role if layer in (EMBEDDING, HEAD) else f"layer.{layer}/{role}"
        name = f"{place}/{node.op_type}"
        n = counts[name] = counts.get(name, 0) + 1
        node.name = name if n == 1 else f"{name}_{n}"


def _counts(graph: ir.Graph) -> str:
    ops = [n.op_type for n in graph]
    attentions = sum(_is_attention(n) for n in graph)
    return (
        f"found {ops.count('Softmax')} Softmax, {ops.count('LayerNormalization')} LayerNormalization, "
        f"{ops.count('Gelu')} Gelu, {attentions} attentions"
    )


def _is_attention(node: ir.Node) -> bool:
    """A Softmax over canonical scores: scaled (and masked) product of two transposed linears."""
    if node.op_type != "Softmax":
        return False
    value = node.inputs[0]
    for op_type in ("Add", "Mul", "MatMul"):
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type == op_type:
            value = producer.inputs[0]
        elif op_type != "Add":
            return False
    turned = value.producer() if value is not None else None
    return turned is not None and turned.op_type == "Transpose"


def _nothing_found(model: ir.Model, sought: str) -> str:
    return f"{_named(model)}no encoder found: looked for {sought}; {_counts(model.graph)}{_nearest(model)}"


def _half_found(model: ir.Model, layers: int, sought: str) -> str:
    return (
        f"{_named(model)}only part of the encoder is recognised: {layers} complete layers, then not {sought}; "
        f"{_counts(model.graph)}{_nearest(model)}"
    )


def _named(model: ir.Model) -> str:
    known = unsupported(model.graph)
    return f"{known} is not supported; " if known is not None else ""


def _nearest(model: ir.Model) -> str:
    miss = explanation(model).nearest()
    return f"; nearest miss: {miss}" if miss is not None else ""

"""Label every node and weight of a canonical encoder with its layer and role."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.anatomy import (
    EMBEDDING,
    HEAD,
    LAYER_KEY,
    ROLE_KEY,
    TABLE_ROLES,
    FloatPart,
    label,
    record,
    role,
)
from bqc.ir.explain import explanation, node_name
from bqc.ir.inputs import INPUTS_KEY, input_specs
from bqc.ir.match import (
    Linear,
    as_linear,
    constant,
    has_graphs,
    is_product,
    is_weight,
    rank,
    scalar,
    size_of,
    walk_back,
)
from bqc.ir.notes import note
from bqc.ir.rewrite import between
from bqc.ir.unsupported import unsupported
from bqc.passes._weights import tied_tables

__all__ = ["AnnotateAnatomy"]

_ACTIVATIONS = ("Gelu", "Relu")
_ACTIVATION_STEPS = 12


class _Broken(Exception):
    """A block does not continue as the canonical form does; the text says what was expected."""


@dataclass(frozen=True)
class AnnotateAnatomy(ir.passes.InPlacePass):
    """Find the embedding and the two blocks of every layer in the canonical form, and write labels on them.

    Before: `y = LayerNormalization(...)`
    After: `y = LayerNormalization(...)  {bqc.layer: "3", bqc.role: "ffn.norm"}`, its gamma and beta likewise

    1. The embedding is the LayerNormalization of two or three summed table lookups, and where the tables
       are narrower than the layers, the linear after it. Of another embedding the largest table is labelled.
    2. Every Softmax over a product of activations is the attention of a layer. Its block goes from the hidden
       state that query, key and value read to a LayerNormalization, and the FFN's from there to the next. A
       weight that several layers share carries the labels of the first.
    3. What does not continue in the canonical form stays float, and the summary says what and why. Labels end
       there; the next block starts afresh, with `attention.input` or `ffn.input` on the node that makes what it
       reads.
    4. Linears after the last layer are `pooler` (followed by Tanh), `head.transform` (followed by another
       activation) or `head`. What they read of nodes without a role has the role `head.input`.
    5. Nodes are renamed after their labels, so that a viewer shows the anatomy; the summary of it all, and what
       each input takes, is recorded in the model's metadata.

    Raises:
        BqcError: no attention is recognised, or no layer is whole and the encoder is one that is known and not
            supported; the message names the nearest miss.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        nodes = list(graph)
        attentions = [n for n in nodes if _is_attention(n)]
        parts = _embedding(model)
        if not attentions:
            sought = "query, key and value linears feeding an attention"
            raise BqcError(
                _nothing_found(model, "word + type + position embedding lookups" if parts else sought)
            )
        starts = [nodes.index(n) for n in attentions]
        shapes: set[tuple[int, ...]] = set()
        for layer, (first, last) in enumerate(zip(starts, [*starts[1:], len(nodes)], strict=True)):
            parts += _layer(model, nodes[first:last], str(layer), shapes)
        _check_enough(model, len(attentions), parts)
        parts += _head(nodes[max(starts[-1], _last_sum(nodes)) :])
        if tied_tables(model):
            note(model, "the decoder is the word table: both get one format, and one copy is stored")
        _name(graph)
        record(model, len(attentions), parts)
        model.metadata_props[INPUTS_KEY] = input_specs(model).to_json()
        return ir.passes.PassResult(model, True)


def _embedding(model: ir.Model) -> list[FloatPart]:
    """Label the embedding; what of it stays float."""
    found = next(filter(None, map(_table_sum, model.graph)), None)
    if found is not None:
        lookups, sums, norm = found
        roles = TABLE_ROLES if len(lookups) == 3 else (TABLE_ROLES[0], TABLE_ROLES[2])
        for node, name in zip(lookups, roles, strict=True):
            _put(EMBEDDING, name, node)
        _put(EMBEDDING, "embedding.sum", *sums)
        _put(EMBEDDING, "embedding.norm", norm)
        _projection_of(norm.outputs[0])
        return []
    tables = [n for n in model.graph if n.op_type == "Gather" and _reads_table(n)]
    if tables:
        _put(EMBEDDING, TABLE_ROLES[0], max(tables, key=lambda n: size_of(n.inputs[0], 0)))
    miss = explanation(model).nearest("embedding")
    why = (
        miss.predicate
        if miss is not None
        else "not a LayerNormalization of two or three summed table lookups"
    )
    return [FloatPart(f"{EMBEDDING}:embedding.sum", why)]


def _table_sum(norm: ir.Node) -> tuple[list[ir.Node], list[ir.Node], ir.Node] | None:
    """The lookups and sums under a LayerNormalization, and that."""
    x = norm.inputs[0] if norm.op_type == "LayerNormalization" else None
    outer = x.producer() if x is not None else None
    if outer is None or outer.op_type != "Add":
        return None
    inner = outer.inputs[0].producer() if outer.inputs[0] is not None else None
    sums = [inner, outer] if inner is not None and inner.op_type == "Add" else [outer]
    terms = [*sums[0].inputs, *(n.inputs[1] for n in sums[1:])]
    lookups = [node for v in terms if v is not None and (node := v.producer()) is not None]
    whole = len(lookups) == len(terms) and all(
        n.op_type == "Gather" and is_weight(n.inputs[0], 2) for n in lookups
    )
    return (lookups, sums, norm) if whole else None


def _reads_table(gather: ir.Node) -> bool:
    """Is it a lookup of rows by ids that a graph input gives?"""
    table, ids = gather.inputs
    if ids is None or not is_weight(table, 2) or gather.attributes.get_int("axis", 0) != 0:
        return False
    return bool(walk_back(ids, lambda v: v.is_graph_input()))


def _projection_of(x: ir.Value) -> None:
    """Label what makes the first layer's input of a narrow embedding."""
    linears = list(_linears(x))
    if len(linears) == 1 and len(x.consumers()) == 1 and _starts_layer(linears[0].out):
        _put(EMBEDDING, "embedding.projection", *linears[0].nodes)


def _starts_layer(hidden: ir.Value) -> bool:
    return sum(u.op_type == "MatMul" and u.inputs[0] is hidden for u in hidden.consumers()) >= 3


def _layer(
    model: ir.Model, nodes: Sequence[ir.Node], layer: str, shapes: set[tuple[int, ...]]
) -> list[FloatPart]:
    """Label the layer that the nodes from its Softmax to the next one's hold; what of it stays float."""
    parts: list[FloatPart] = []
    attended = None
    misses = explanation(model).misses
    miss = next((m for m in misses if (m.rule, m.node) == ("attention", node_name(nodes[0]))), None)
    if miss is not None:
        parts.append(FloatPart(f"{layer}:attention", miss.predicate))
    else:
        try:
            attended = _attention(nodes[0], layer, shapes, parts)
        except _Broken as broken:
            parts.append(FloatPart(f"{layer}:attention", f"not found: {broken}"))
    try:
        _ffn(_ffn_input(attended, nodes), layer, parts)
    except _Broken as broken:
        parts.append(FloatPart(f"{layer}:ffn", f"not found: {broken}"))
    return parts


def _attention(
    softmax: ir.Node, layer: str, shapes: set[tuple[int, ...]], parts: list[FloatPart]
) -> ir.Value:
    """From query, key and value to the LayerNormalization, whose value is returned."""
    made, sums = _producer(softmax.inputs[0]), list[ir.Node]()
    while made.op_type == "Add" and len(sums) < 2:
        sums.append(made)
        made = _producer(made.inputs[0])
    added = [_role_of(node.inputs[1]) for node in reversed(sums)]
    _require(
        added in ([], ["attention.mask"], ["attention.bias"], ["attention.bias", "attention.mask"]),
        "attention scores with the padding mask added",
    )
    _require(made.op_type == "Mul" and scalar(made.inputs[1]) is not None, "attention scores times a number")
    product = _producer(made.inputs[0], "MatMul")
    _require(softmax.attributes.get_int("axis", -1) in (-1, 3), "Softmax over the last axis")
    context = _next(softmax.outputs[0], "MatMul")
    turned = _next(context.outputs[0], "Transpose")
    merged = _next(turned.outputs[0], "Reshape")
    _require(_perm(turned) == [0, 2, 1, 3] and _target(merged)[:2] == [0, 0], "heads merged to [0, 0, H]")
    projections = {
        "attention.query": _projection(product.inputs[0], "query", [0, 2, 1, 3]),
        "attention.key": _projection(product.inputs[1], "key", [0, 2, 3, 1]),
        "attention.value": _projection(context.inputs[1], "value", [0, 2, 1, 3]),
    }
    linears = [linear for linear, *_ in projections.values()]
    hidden = linears[0].x
    _require(all(one.x is hidden for one in linears), "query, key and value of one hidden state")
    shapes |= {tuple(_target(reshape)[2:]) for _, reshape, _ in projections.values()}
    _require(len(shapes) == 1, f"as many heads, as wide, as in the other layers ({sorted(shapes)})")
    parts += _start(hidden, layer, "attention.input")
    for name, (linear, *split) in projections.items():
        _put(layer, name, *linear.nodes, *split)
    _put(layer, "attention.scores", product, made, *reversed(sums))
    _put(layer, "attention.softmax", softmax)
    _put(layer, "attention.context", context, turned, merged)
    width = size_of(linears[2].weight, 1)
    return _block(layer, merged.outputs[0], hidden, "attention.output", "attention.norm", width)


def _projection(value: ir.Value | None, what: str, order: list[int]) -> tuple[Linear, ir.Node, ir.Node]:
    transpose = _producer(value, "Transpose")
    _require(_perm(transpose) == order, f"attention.{what} transposed by {order}")
    reshape = _producer(transpose.inputs[0], "Reshape")
    _require(
        _target(reshape)[:2] == [0, 0] and len(_target(reshape)) == 4, f"attention.{what} split [0, 0, h, d]"
    )
    linear = as_linear(reshape.inputs[0])
    if linear is None:
        raise _Broken(f"the {what} of an attention")
    return linear, reshape, transpose


def _ffn_input(attended: ir.Value | None, nodes: Iterable[ir.Node]) -> ir.Value:
    """What the attention block makes or, where that broke, what a linear and a residual sum read."""
    if attended is not None and any(_linears(attended)):
        return attended
    read = [
        (linears[0], out)
        for node in nodes
        for out in node.outputs
        if len(linears := list(_linears(out))) == 1 and _use(out, "Add") is not None
    ]
    if not read:
        raise _Broken("a value that one linear and a residual sum read")
    # An adapter has the same shape; an FFN is wider.
    return max(read, key=lambda pair: size_of(pair[0].weight, 1))[1]


def _ffn(attended: ir.Value, layer: str, parts: list[FloatPart]) -> None:
    """From the first linear to the LayerNormalization."""
    inner = _one_linear(attended, "the first linear of an FFN")
    parts += _start(attended, layer, "ffn.input")
    _put(layer, "ffn.intermediate", *inner.nodes)
    activation = _activation(inner.out)
    _put(layer, "ffn.gelu", activation)
    if activation.op_type not in _ACTIVATIONS or activation.inputs[0] is not inner.out:
        names = ", ".join(n.op_type for n in between(activation.outputs[0], [inner.out]))
        parts.append(FloatPart(f"{layer}:ffn.gelu", f"the activation ({names}) is neither Gelu nor Relu"))
    _block(layer, activation.outputs[0], attended, "ffn.output", "ffn.norm", size_of(inner.weight, 1))


def _activation(x: ir.Value) -> ir.Node:
    """The node whose value the second linear reads."""
    found: list[ir.Node] = []
    queue = [x]
    while queue and len(found) < _ACTIVATION_STEPS:
        for use in queue.pop(0).consumers():
            if use in found:
                continue
            found.append(use)
            if any(_linears(use.outputs[0])):
                return use
            queue.append(use.outputs[0])
    raise _Broken(
        f"an activation and the second linear of an FFN (but {', '.join(n.op_type for n in found)})"
    )


def _block(
    layer: str, x: ir.Value, residual: ir.Value, linear_role: str, norm_role: str, width: int
) -> ir.Value:
    """Linear of `width` inputs, residual sum, LayerNormalization; returns the normalised value."""
    linear = _one_linear(x, f"the linear of {linear_role}")
    found = size_of(linear.weight, 0)
    _require(found == width, f"a linear of {width} inputs as {linear_role} (it has {found})")
    _put(layer, linear_role, *linear.nodes)
    total = _next(linear.out, "Add")
    _require(
        total.inputs[0] is linear.out and total.inputs[1] is residual, f"a residual sum after {linear_role}"
    )
    norm = _next(total.outputs[0], "LayerNormalization")
    axis = norm.attributes.get_int("axis", -1)
    _require(axis in (-1, 2), f"a LayerNormalization over the last axis after {linear_role} (axis is {axis})")
    _put(layer, norm_role, total, norm)
    return norm.outputs[0]


def _start(value: ir.Value, layer: str, name: str) -> list[FloatPart]:
    """Label what makes a block's input, where nothing recognised does; what is between it and the block before."""
    node = value.producer()
    if node is None:
        raise _Broken(f"a computed {name}, not a graph input")
    if role(node) is not None:
        return []
    if node.op_type.startswith("Sequence"):
        raise _Broken(f"a {name} for all tokens at once, not one part of a sequence of chunks")
    label(node, layer, name)
    # A LayerNormalization ends a block that is not recognised, for which there is a reason already.
    if node.op_type == "LayerNormalization":
        return []
    return [FloatPart(f"{layer}:{name}", f"{node.op_type} between two blocks")]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _Broken(what)


def _target(reshape: ir.Node) -> list[int]:
    found = constant(reshape.inputs[1])
    return [] if found is None else [int(n) for n in found.reshape(-1)]


def _perm(transpose: ir.Node) -> list[int]:
    return list(transpose.attributes.get_ints("perm", ()) or ())


def _role_of(value: ir.Value | None) -> str | None:
    return None if value is None else role(value.producer() or value)


def _producer(value: ir.Value | None, op_type: str | None = None) -> ir.Node:
    node = None if value is None else value.producer()
    if node is None or op_type not in (None, node.op_type):
        raise _Broken(f"{op_type or 'a node'} (but {node.op_type if node is not None else 'an input'})")
    return node


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


def _is_attention(node: ir.Node) -> bool:
    """Is it a Softmax of a product of two activations?"""
    if node.op_type != "Softmax" or node.inputs[0] is None:
        return False
    found = walk_back(node.inputs[0], lambda v: is_product(v) or as_linear(v) is not None)
    return any(map(is_product, found))


def _last_sum(nodes: Sequence[ir.Node]) -> int:
    """Where the last LayerNormalization of a sum is: the end of the last layer."""
    ends = [i for i, n in enumerate(nodes) if n.op_type == "LayerNormalization" and _is_sum(n.inputs[0])]
    return ends[-1] if ends else 0


def _is_sum(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    return node is not None and node.op_type == "Add" and as_linear(value) is None


def _head(nodes: Sequence[ir.Node]) -> list[FloatPart]:
    """Label what follows the last layer; what of it has weights and stays float."""
    for node in nodes:
        linear = as_linear(node.outputs[0]) if role(node) is None else None
        if linear is None:
            continue
        tanh = _use(linear.out, "Tanh")
        activation = _use(linear.out, "Gelu") or _use(linear.out, "Relu")
        if tanh is not None:
            _put(HEAD, "pooler", *linear.nodes, tanh)
        elif activation is not None:
            _put(HEAD, "head.transform", *linear.nodes, activation)
            norm = _use(activation.outputs[0], "LayerNormalization")
            if norm is not None:
                _put(HEAD, "head.norm", norm)
        else:
            _put(HEAD, "head", *linear.nodes)
        _head_input(linear.x, node.metadata_props[ROLE_KEY])
    left = {n.op_type for n in nodes if role(n) is None and any(_is_matrix(v) for v in n.inputs)}
    return [FloatPart(f"{HEAD}:{HEAD}", f"{op_type} is no linear") for op_type in sorted(left)]


def _is_matrix(value: ir.Value | None) -> bool:
    return value is not None and is_weight(value) and _is_own(value) and (rank(value) or 0) > 1


def _head_input(x: ir.Value, reader: str) -> None:
    """Label what makes the input of a head's linear; where that takes a token, what it takes it from."""
    node = x.producer()
    if node is not None and node.op_type == "Gather" and role(node) in (None, "head.input"):
        _put(HEAD, reader, node)
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is not None and role(node) is None:
        label(node, HEAD, "head.input")


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


def _check_enough(model: ir.Model, layers: int, parts: Sequence[FloatPart]) -> None:
    """Refuse what has no attention that is recognised, and what is known as not supported in every layer."""
    broken = [part for part in parts if part.layer != EMBEDDING]
    whole = layers - len({part.layer for part in broken})
    attentions = sum(role(n) == "attention.softmax" for n in model.graph)
    known = unsupported(model.graph) if not whole else None
    if attentions and known is None:
        return
    name = f"{known} is not supported; " if known is not None else ""
    raise BqcError(
        f"{name}only part of the encoder is recognised: {whole} complete layers, {broken[0]}; "
        f"{_counts(model.graph)}{_nearest(model, broken[0].reason)}"
    )


def _counts(graph: ir.Graph) -> str:
    ops = [n.op_type for n in graph]
    attentions = sum(map(_is_attention, graph))
    return (
        f"found {ops.count('Softmax')} Softmax, {ops.count('LayerNormalization')} LayerNormalization, "
        f"{ops.count('Gelu')} Gelu, {attentions} attentions"
    )


def _nothing_found(model: ir.Model, sought: str) -> str:
    known = unsupported(model.graph)
    name = f"{known} is not supported; " if known is not None else ""
    inner = sorted({n.op_type for n in model.graph if has_graphs(n)})
    apart = f"; what is inside {' and '.join(inner)} is not looked at" if inner else ""
    return f"{name}no encoder found: looked for {sought}; {_counts(model.graph)}{apart}{_nearest(model)}"


def _nearest(model: ir.Model, said: str = "") -> str:
    """The nearest miss; of one whose reason was `said`, only the place."""
    miss = explanation(model).nearest()
    if miss is None:
        return ""
    return (
        f"; nearest miss: {miss.rule} at {miss.node}" if miss.predicate == said else f"; nearest miss: {miss}"
    )

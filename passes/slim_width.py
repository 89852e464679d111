"""Every layer keeps its most important attention heads and FFN neurons."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.anatomy import EMBEDDING, encoder, record
from bqc.ir.build import Writer, dims
from bqc.ir.explain import node_name
from bqc.ir.load import is_compiled
from bqc.ir.match import Linear
from bqc.ir.rewrite import drop_dead, sources
from bqc.ops.registry import DOMAIN
from bqc.passes._blocks import Attention, Ffn, Layer, layers_of
from bqc.passes._graph import constant, key_of
from bqc.passes.annotate_sensitivity import METRIC_KEY, SENSITIVITY_KEY
from bqc.passes.import_weights import free_name
from bqc.plan import PLAN_KEY

__all__ = ["IMPORTANCE_KEY", "SlimWidth", "kept_heads", "kept_neurons", "write_importance"]

IMPORTANCE_KEY = "bqc.importance"
"""Metadata of a layer's Softmax, one number a head, and of its Gelu or Relu, one number a neuron: a list in JSON, the
larger the more important. Metadata of the model: what the numbers were measured on, in words."""
SOURCES = ("auto", "stored", "weights")

_MULTIPLE = 16
"""Rows of the kernels' tiles."""

Floats = npt.NDArray[np.float64]
Kept = tuple[int, ...]


@dataclass(frozen=True)
class SlimWidth(ir.passes.InPlacePass):
    """Keep a part of the heads and FFN neurons of every layer, the most important ones, and remove the others.

    Before::

        q = Add(MatMul(x, Wq[H, h * d]), bq)           Wk, Wv likewise
        o = Add(MatMul(context, Wo[h * d, H]), bo)
        g = Gelu(Add(MatMul(a, W1[H, F]), b1));  y = Add(MatMul(g, W2[F, H]), b2)

    After: the same nodes with h' heads and F' neurons; the hidden size H and the size d of a head stay

    The result computes what the model would with the removed heads' rows of Wo, and the removed neurons' rows of W2,
    set to zero. What is kept stays in its order. h' is width * h rounded half up, at least 1; F' is width * F rounded
    to a multiple of 16, where that is neither 0 nor more than F. Relative positions with a head axis are cut for each
    layer. Weights that layers share are cut once, by the sum of the layers' importances.

    Source: DynaBERT (Hou et al., arXiv 2004.04037), the sub-networks of its width-adaptive model; BinaryBERT starts
    from that of width 0.5. The importances are those that `bqc.train.importance.measure_importance` has written.
    Without them they come from the weights alone, which is this project's own: of a head ``|[Wv; bv] Wo|``, the
    Frobenius norm of the map from what it attends to to what it adds to the hidden state, which does not depend on how
    the head's d dimensions are spelled; of a neuron the norm of its column of ``[W1; b1]`` times that of its row of W2.

    Contract: lossy, and nothing is promised of the outputs: without training a slim model may be of no use. Run again,
    it removes the same part of what is left.

    Raises:
        BqcError: the width is not above 0 and at most 1; the model is quantised or planned, or a layer is not whole in
            the canonical form; another node, or an output of the graph, reads what would become narrower; stored
            importances are asked for, and missing, or do not fit.
    """

    contract = Contract("lossy", cosine_min=-1.0, idempotent=False)

    width: float = 0.5
    """The part of the heads and neurons that is kept, above 0 and at most 1, which changes nothing."""
    importance: str = "auto"
    """stored: as measured on data; weights: from the weights alone; auto: stored where there are any."""

    def __post_init__(self) -> None:
        if not 0 < self.width <= 1:
            raise BqcError(f"width {self.width:g} is not above 0 and at most 1")
        if self.importance not in SOURCES:
            raise BqcError(f"importance {self.importance!r} is unknown; use one of {', '.join(SOURCES)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        _require_float(model)
        anatomy = encoder(model)
        layers = layers_of(model)
        stored = self._stored(layers)
        changes = _Changes(model.graph)
        for group in _sharing(layers, lambda one: _matrices(one.attention)):
            heads = group[0].attention.heads
            count = kept_heads(self.width, heads)
            if count < heads:
                scores = [_head_scores(one, stored) for one in group]
                kept = _best(scores, count, f"{group[0].name}:attention")
                for one in group:
                    _cut_attention(changes, one, kept)
        for group in _sharing(layers, lambda one: (one.ffn.inner.weight, one.ffn.outer.weight)):
            neurons = group[0].ffn.neurons
            count = kept_neurons(self.width, neurons)
            if count < neurons:
                scores = [_neuron_scores(one, stored) for one in group]
                kept = _best(scores, count, f"{group[0].name}:ffn")
                for one in group:
                    _cut_ffn(changes, one, kept)
        if not changes.any:
            return ir.passes.PassResult(model, False)
        changes.apply()
        drop_dead(model)
        _forget_sensitivity(model)
        record(model, anatomy.layers, anatomy.float_parts)
        return ir.passes.PassResult(model, True)

    def _stored(self, layers: Sequence[Layer]) -> bool:
        """Whether importances are read from the graph."""
        if self.importance == "weights":
            return False
        nodes = [node for one in layers for node in (one.attention.softmax, one.ffn.activation)]
        missing = [node for node in nodes if IMPORTANCE_KEY not in node.metadata_props]
        if not missing:
            return True
        if self.importance == "stored" or len(missing) < len(nodes):
            raise BqcError(
                f"{key_of(missing[0])} has no importance: measure it with "
                "bqc.train.importance.measure_importance, or use slim-width{importance=weights}"
            )
        return False


def kept_heads(width: float, heads: int) -> int:
    """Heads that are kept of so many."""
    return max(1, math.floor(width * heads + 0.5))


def kept_neurons(width: float, neurons: int) -> int:
    """FFN neurons that are kept of so many."""
    if width == 1:
        return neurons
    whole = _MULTIPLE * math.floor(width * neurons / _MULTIPLE + 0.5)
    return whole if 0 < whole <= neurons else max(1, math.floor(width * neurons + 0.5))


def write_importance(node: ir.Node, scores: Iterable[float]) -> None:
    """Write importances onto a layer's Softmax (of its heads) or activation (of its neurons), with six digits."""
    rounded = [float(f"{score:.6g}") for score in scores]
    node.metadata_props[IMPORTANCE_KEY] = json.dumps(rounded, separators=(",", ":"))


def _require_float(model: ir.Model) -> None:
    if is_compiled(model) or any(node.domain == DOMAIN for node in model.graph):
        raise BqcError("the model is quantised already; slim the float model that it was made from")
    if PLAN_KEY in model.metadata_props:
        raise BqcError("the model has a plan, which is for its width; run slim-width before the plan pass")


def _matrices(attention: Attention) -> tuple[ir.Value, ...]:
    linears = (attention.query, attention.key, attention.value, attention.output)
    return tuple(linear.weight for linear in linears)


def _sharing(
    layers: Sequence[Layer], weights: Callable[[Layer], Sequence[ir.Value]]
) -> Iterator[list[Layer]]:
    """Layers in groups that share a weight, directly or through others."""
    groups: list[tuple[set[ir.Value], list[Layer]]] = []
    for one in layers:
        own, members = set(weights(one)), [one]
        apart = []
        for known, others in groups:
            if known & own:
                own, members = known | own, others + members
            else:
                apart.append((known, others))
        groups = [*apart, (own, members)]
    yield from (members for _, members in groups)


# Importance


def _head_scores(one: Layer, stored: bool) -> Floats:
    attention = one.attention
    if stored:
        return _read(attention.softmax, attention.heads)
    parts = (attention.heads, attention.head_dim)
    values = _augmented(attention.value)
    # |V O|^2 is the trace of (V^T V)(O O^T), whose factors are no larger than a head.
    v = values.reshape(len(values), *parts).transpose(1, 0, 2)
    o = _array(attention.output.weight).reshape(*parts, -1)
    squares = ((v.transpose(0, 2, 1) @ v) * (o @ o.transpose(0, 2, 1))).sum((1, 2))
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def _neuron_scores(one: Layer, stored: bool) -> Floats:
    ffn = one.ffn
    if stored:
        return _read(ffn.activation, ffn.neurons)
    incoming = np.linalg.norm(_augmented(ffn.inner), axis=0)
    return np.asarray(incoming * np.linalg.norm(_array(ffn.outer.weight), axis=1))


def _augmented(linear: Linear) -> Floats:
    """The weight [K, N] with the bias as one more row."""
    return np.vstack([_array(linear.weight), _array(linear.bias)])


def _array(value: ir.Value) -> Floats:
    data = constant(value)
    assert data is not None, "weights of linears are initializers"
    return data.astype(np.float64)


def _read(node: ir.Node, count: int) -> Floats:
    try:
        scores = np.asarray(json.loads(node.metadata_props[IMPORTANCE_KEY]), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise BqcError(f"the importance of {key_of(node)} is damaged: {error}") from None
    if scores.shape != (count,):
        raise BqcError(f"the importance of {key_of(node)} is not {count} numbers: measure it on this model")
    return scores


def _best(scores: Sequence[Floats], count: int, where: str) -> Kept:
    """The largest sums, in order; of equal ones the first."""
    total = np.sum(scores, axis=0)
    if not np.isfinite(total).all():
        raise BqcError(f"{where}: importances are NaN or infinite; the model or what was measured is damaged")
    return tuple(int(i) for i in np.sort(np.argsort(-total, kind="stable")[:count]))


# Cutting


class _Changes:
    """What is to be replaced, collected first: an initializer that all its readers want alike is changed in place."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._reads: dict[ir.Value, list[tuple[ir.Node, int, Hashable, Callable[[Any], Any]]]] = defaultdict(
            list
        )
        self._sizes: list[tuple[ir.Value, int, int]] = []
        self._scores: list[tuple[ir.Node, Kept]] = []
        self._positions: list[tuple[ir.Node, Kept]] = []

    @property
    def any(self) -> bool:
        """Whether there is something to do."""
        return bool(self._sizes)

    def cut(self, node: ir.Node, index: int, axis: int, kept: Kept) -> None:
        """Keep some of an initializer along an axis, as an input of a node."""
        value = node.inputs[index]
        assert value is not None, "linears have all inputs"
        self._reads[value].append((node, index, (axis, kept), lambda data: np.take(data, kept, axis)))

    def target(self, reshape: ir.Node, sizes: Sequence[int]) -> None:
        """Give a Reshape another target."""
        value = reshape.inputs[1]
        assert value is not None, "a Reshape has a target"
        made = np.asarray(sizes, np.int64)
        self._reads[value].append((reshape, 1, tuple(sizes), lambda _: made))

    def size(self, value: ir.Value, axis: int, size: int) -> None:
        """Write another size of a value."""
        self._sizes.append((value, axis, size))

    def importance(self, node: ir.Node, kept: Kept) -> None:
        """Keep some of a node's importances."""
        self._scores.append((node, kept))

    def positions(self, add: ir.Node, kept: Kept) -> None:
        """Keep some of the heads of the positions that a node adds to the scores."""
        self._positions.append((add, kept))

    def apply(self) -> None:
        """Do it all."""
        for add, kept in self._positions:
            self._cut_positions(add, kept)
        for value, reads in self._reads.items():
            wanted: dict[Hashable, list[tuple[ir.Node, int]]] = defaultdict(list)
            make = {}
            for node, index, key, change in reads:
                wanted[key].append((node, index))
                make[key] = change
            own = len(wanted) == 1 and len(value.uses()) == len(reads) and not value.is_graph_output()
            for key, places in wanted.items():
                data = np.array(make[key](constant(value)), order="C")
                changed = value if own else self._copy(value)
                changed.const_value = ir.Tensor(data, name=changed.name)
                changed.shape = ir.Shape(data.shape)
                for node, index in places:
                    node.replace_input_with(index, changed)
                if not own:
                    self._graph.register_initializer(changed)
        for value, axis, size in self._sizes:
            sizes = dims(value)
            if sizes is not None:
                sizes[axis] = size
                value.shape = ir.Shape(sizes)
        for node, kept in self._scores:
            if IMPORTANCE_KEY in node.metadata_props:
                scores = json.loads(node.metadata_props[IMPORTANCE_KEY])
                write_importance(node, [scores[i] for i in kept])

    def _copy(self, value: ir.Value) -> ir.Value:
        copy = ir.Value(
            name=free_name(self._graph, f"{value.name}.slim"),
            type=value.type,
            metadata_props=dict(value.metadata_props),
        )
        copy.meta.update(value.meta)
        return copy

    def _cut_positions(self, add: ir.Node, kept: Kept) -> None:
        value = add.inputs[1]
        assert value is not None, "an Add has two inputs"
        if value.is_initializer():
            self.cut(add, 1, 1, kept)
            return
        maker = value.producer()
        assert maker is not None, "relative positions are a constant or computed"
        w = Writer(self._graph, source=sources([maker])).at(EMBEDDING, "attention.bias")
        index = w.shared("heads_kept", np.asarray(kept, np.int64))
        sizes = dims(value)
        assert sizes is not None, "checked before anything is changed"
        found = next(
            (
                use.outputs[0]
                for use in value.consumers()
                if use.op_type == "Gather"
                and use.inputs[1] is index
                and use.attributes.get_int("axis", 0) == 1
            ),
            None,
        )
        if found is None:
            found = w.op("Gather", value, index, shape=[sizes[0], len(kept), *sizes[2:]], axis=1)
            self._graph.insert_after(maker, w.nodes)
        add.replace_input_with(1, found)


def _cut_attention(changes: _Changes, one: Layer, kept: Kept) -> None:
    attention, dim = one.attention, one.attention.head_dim
    inside = {attention.output.nodes[0]}
    for value in (*attention.values, *attention.merged):
        inside.add(_producer(value))
    _require_inside((*attention.values, *attention.merged), inside, one.name, "heads")
    columns = tuple(head * dim + i for head in kept for i in range(dim))
    for linear in (attention.query, attention.key, attention.value):
        _cut_columns(changes, linear, columns)
    changes.cut(attention.output.nodes[0], 1, 0, columns)
    for split in attention.splits:
        changes.target(split, [0, 0, len(kept), dim])
    changes.target(attention.merge, [0, 0, len(columns)])
    for value, axis in attention.values.items():
        changes.size(value, axis, len(kept))
    for value in attention.merged:
        changes.size(value, -1, len(columns))
    if attention.bias is not None and _has_heads(attention.bias, one):
        changes.positions(attention.bias, kept)
    changes.importance(attention.softmax, kept)


def _cut_ffn(changes: _Changes, one: Layer, kept: Kept) -> None:
    ffn: Ffn = one.ffn
    inside = {*map(_producer, ffn.values), ffn.outer.nodes[0]}
    _require_inside(ffn.values, inside, one.name, "FFN neurons")
    _cut_columns(changes, ffn.inner, kept)
    changes.cut(ffn.outer.nodes[0], 1, 0, kept)
    for value in ffn.values:
        changes.size(value, -1, len(kept))
    changes.importance(ffn.activation, kept)


def _cut_columns(changes: _Changes, linear: Linear, kept: Kept) -> None:
    product, add = linear.nodes
    changes.cut(product, 1, 1, kept)
    changes.cut(add, 1, 0, kept)


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None, "blocks are made of nodes"
    return node


def _require_inside(values: Iterable[ir.Value], inside: set[ir.Node], name: str, what: str) -> None:
    """Nothing but the block reads what becomes narrower."""
    for value in values:
        others = [node_name(node) for node in value.consumers() if node not in inside]
        reader = (
            f"output {value.name!r} of the graph" if value.is_graph_output() else next(iter(others), None)
        )
        if reader is not None:
            raise BqcError(
                f"the {what} of layer {name} cannot be removed: {key_of(_producer(value))} is read by {reader} too"
            )


def _has_heads(add: ir.Node, one: Layer) -> bool:
    """Whether positions that are added differ from head to head."""
    value = add.inputs[1]
    sizes = None if value is None else dims(value)
    if sizes is None or len(sizes) != 4 or sizes[1] not in (1, one.attention.heads):
        shape = "no known shape" if sizes is None else f"the shape {sizes}"
        raise BqcError(
            f"the heads of layer {one.name} cannot be removed: the relative positions added to its scores have {shape}"
        )
    return sizes[1] == one.attention.heads != 1


def _forget_sensitivity(model: ir.Model) -> None:
    """Scores are of the wide model."""
    model.metadata_props.pop(METRIC_KEY, None)
    for node in model.graph:
        node.metadata_props.pop(SENSITIVITY_KEY, None)

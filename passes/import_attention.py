"""Self-attention, however it is written, becomes the canonical MatMul, scale, mask, Softmax, MatMul."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.build import Writer, dims, write_attention_core, write_mask
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import NoMatch, explanation, node_name
from bqc.ir.inputs import HIDES
from bqc.ir.match import constant, rank, size_of, walk_back
from bqc.ir.notes import note
from bqc.ir.padding import marked_padding
from bqc.ir.probe import Probe, ProbeError, Sizes, mask_patterns, same_shape
from bqc.ir.rewrite import between, drop_dead, sources, take_place
from bqc.passes._attention_bias import label_bias, position_bias
from bqc.passes._attention_mask import Mask, feeds_of, find_masks, ways_to_hide, write_shown
from bqc.passes._attention_region import Region, regions
from bqc.passes._attention_terms import require_plain_terms

__all__ = ["EMPTY_ROWS", "ImportAttention"]

Array = npt.NDArray[Any]

EMPTY_ROWS = "rows in which all tokens are padding give other outputs than the original's"
"""A note: there attention is the mean of all values here, whatever exporters put there."""

_CLOSE = 2e-4
_MASKED = 7
"""Predicates that hold before a mask is looked at."""
_NEAR = 100
"""Nodes before the context that lineage names; a mask may have come a long way."""
_BOUNDS = ("Clip", "Min", "Max", "HardSigmoid", "Relu")


@dataclass(frozen=True)
class _Meaning:
    """What the region computes."""

    heads: int
    head_dim: int
    scale: float
    masks: tuple[Mask, ...]
    bias: ir.Value | None
    padded_queries: bool
    """Do queries that are padding see what the others see?"""
    guarded: bool
    """Is the context of a text without any token something else than the mean of its values?"""


@dataclass(frozen=True)
class ImportAttention(ir.passes.InPlacePass):
    """Recognise attention by what it computes between its linears, anchored at Softmax.

    Before::

        q, k, v = linears; any Reshape/Transpose/scale/mask/Where/Softmax/NaN guard ...; c = input of a linear

    After::

        s = Add(Mul(MatMul(q4, k4), scale), bias);  p = Softmax(s);  c = Reshape(Transpose(MatMul(p, v4)))
        s = Add(Add(Mul(...), position_bias), bias)                  where a bias of relative positions is added

    Heads may be taken one by one (Split, Slice), each with its Softmax, and merged by a Concat. Attention weights
    that are an output of the graph are p.

    The region is run on random projections under several padding masks. It is attention if the Softmax input
    is `scale * q k^T` at keys that are shown and below -5e3 at others, and the result is the weighted mean of v.
    What hides keys is found out by `_attention_mask`. What the scores are combined with is run alone on a long
    sequence: windows of local attention and segments are not masks.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        misses = explanation(model)
        biases: Biases = {}
        plain = set[ir.Value]()
        meanings: list[_Meaning] = []
        for region in regions(graph, misses):
            softmax = region.softmaxes[0]
            try:
                meaning = _understand(graph, region, plain)
            except NoMatch as no:
                misses.add("attention", softmax, str(no), no.depth)
                continue
            except ProbeError as error:
                misses.add("attention", softmax, str(error), 4)
                continue
            if not may_rewrite(softmax):
                continue
            _rewrite(graph, region, meaning, biases)
            meanings.append(meaning)
        if any(meaning.guarded for meaning in meanings):
            note(model, EMPTY_ROWS)
        if not all(meaning.padded_queries for meaning in meanings):
            _ignore_padded_queries(model, meanings)
        drop_dead(model)
        return ir.passes.PassResult(model, bool(meanings))


def _ignore_padded_queries(model: ir.Model, meanings: list[_Meaning]) -> None:
    """Padded tokens differ from the original's: nobody sees them, if every layer hides the same ones."""
    layers = [m for m in explanation(model).misses if m.rule == "attention" and m.depth > 0]
    if layers or len({meaning.masks for meaning in meanings}) > 1:
        raise BqcError(
            "the mask of queries and keys hides everything from padded tokens, and other layers have another mask"
            + (f" ({layers[0]})" if layers else "")
            + "; export the model with one mask [batch, sequence] of keys"
        )
    for node in model.graph:
        if _pools(node):
            raise BqcError(
                f"{node_name(node)} may pool padded tokens too, and the mask of queries and keys hides everything "
                "from them; export the model with one mask [batch, sequence] of keys, or without the pooling"
            )
    names = " and ".join(repr(mask.value.name) for mask in meanings[0].masks)
    note(
        model, f"mask {names} hides everything from padded tokens; outputs at padding are not the original's"
    )


def _pools(node: ir.Node) -> bool:
    """Does it reduce what attention computed, not over the last axis alone?"""
    if not node.op_type.startswith(("Reduce", "Global")):
        return False
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("axes", ())
    x = node.inputs[0]
    last = -1 if x is None or x.shape is None else len(x.shape) - 1
    if [int(axis) for axis in (() if given is None else given)] in ([-1], [last]):
        return False
    return bool(
        walk_back(node.outputs[0], lambda v: (p := v.producer()) is not None and p.op_type == "Softmax")
    )


def _understand(graph: ir.Graph, region: Region, plain: set[ir.Value]) -> _Meaning:
    hidden = size_of(region.query.weight, 1)
    if {size_of(one.weight, 1) for one in (region.key, region.value)} != {hidden}:
        raise NoMatch("query, key and value differ in width", 4)
    boundary = [region.query.out, region.key.out, region.value.out]
    marked = marked_padding(graph)
    scores = [n.inputs[0] for n in region.softmaxes if n.inputs[0] is not None]
    apart = len(scores) > 1
    bias = None if apart else position_bias(graph, scores[0], region.product)
    probe = Probe(
        [*scores, region.context, *([] if bias is None else [bias])], [*dict.fromkeys(boundary), *marked]
    )
    if len(set(boundary)) != 3:
        raise NoMatch("query, key and value share one linear", 4)
    for value in probe.inputs.values():
        if value.is_graph_input() and (rank(value) != 2 or (dims(value) or [0])[-1] == 1):
            raise NoMatch(
                f"it reads input {value.name!r} {dims(value)}, which is no mask [batch, sequence]", 4
            )
    for node in between(region.context, boundary):
        # Random numbers need not reach a bound.
        if node.op_type in _BOUNDS and walk_back(node.outputs[0], boundary.__contains__):
            raise NoMatch(f"{node_name(node)} limits values between the projections and the context", 4)
    pattern = np.ones(astuple(Sizes(2, 4).within(graph)), np.int64)
    pattern[:, -1] = 0
    trial = _Trial(probe, boundary, hidden, len(scores))
    masks = find_masks(graph, probe, boundary, lambda feeds: trial.run(feeds, pattern, 1)[1][0], pattern)
    told = _told(region)
    if told and apart:
        raise NoMatch("the attention weights of single heads are outputs", 5)
    heads = _heads(trial, graph, masks, told)
    whole = True
    try:
        scale = _check(trial, heads, graph, masks)
    except NoMatch as no:
        if not masks or no.depth < _MASKED:
            raise
        whole = False
        scale = _check(trial, heads, graph, masks, padded_queries=False)
    require_plain_terms(graph, probe, boundary, masks, bias, plain, padded_queries=whole)
    guarded = bool(masks) and _guarded(trial, pattern * 0, masks)
    return _Meaning(heads, hidden // heads, _exact(scale, hidden // heads), masks, bias, whole, guarded)


def _guarded(trial: _Trial, nothing: Array, masks: tuple[Mask, ...]) -> bool:
    """Does it give other numbers than the mean of all values where nothing is shown, as exporters' NaN guards do?"""
    (_, _, v), (_, context, *_) = trial.run(feeds_of(masks, nothing), nothing, 0)
    return bool(
        np.isfinite(context).all() and not np.allclose(context, v.mean(axis=1, keepdims=True), atol=1e-3)
    )


def _exact(scale: float, head_dim: int) -> float:
    """A measured scale as the number it was measured of: a simple fraction of 1 / sqrt(d) where that fits."""
    natural = head_dim**-0.5
    nearest = round(scale / natural * 64) / 64 * natural
    return nearest if nearest and abs(scale / nearest - 1) < 1e-4 else scale


Projections = tuple[Array, Array, Array]


@dataclass(frozen=True)
class _Trial:
    """The region as a function of projections and masks."""

    probe: Probe
    boundary: list[ir.Value]
    hidden: int
    softmaxes: int

    def run(self, masks: Mapping[ir.Value, Array], like: Array, seed: int) -> tuple[Projections, list[Array]]:
        """Random projections of the batch and sequence size of `like`; scores, context and bias.

        Scores that come one head at a time are stacked to `[batch, heads, sequence, sequence]`.
        """
        rng = np.random.default_rng(seed)
        batch, sequence = like.shape
        shape = (batch, sequence, self.hidden)
        q, k, v = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
        feeds: dict[ir.Value, Array] = dict(zip(self.boundary, (q, k, v), strict=True))
        for value in self.probe.inputs.values():
            if value not in feeds:
                feeds[value] = (like * 0).astype(value.dtype.numpy() if value.dtype else np.int64)
        found = list(self.probe.run(feeds | dict(masks), Sizes(batch, sequence)))
        if self.softmaxes == 1:
            return (q, k, v), found
        scores, rest = found[: self.softmaxes], found[self.softmaxes :]
        if any(one.size != batch * sequence * sequence for one in scores):
            raise NoMatch(f"{self.softmaxes} Softmaxes of one attention are not one a head", 5)
        stacked = np.stack([one.reshape(batch, sequence, sequence) for one in scores], axis=1)
        return (q, k, v), [stacked, *rest]


def _heads(trial: _Trial, graph: ir.Graph, masks: tuple[Mask, ...], told: bool) -> int:
    hidden = trial.hidden
    sizes = Sizes(2, 5).within(graph)
    b, s = sizes.batch, sizes.sequence
    ones = np.ones((b, s), np.int64)
    scores, context, *_ = trial.run(feeds_of(masks, ones), ones, seed=0)[1]
    heads, rest = divmod(scores.size, b * s * s)
    if rest or scores.shape[-1] != s:
        found = list(scores.shape)
        raise NoMatch(f"scores of batch {b}, sequence {s} have shape {found}, not [{b}, heads, {s}, {s}]", 5)
    if told and scores.shape != (b, heads, s, s):
        raise NoMatch(
            f"attention weights of shape {list(scores.shape)} are an output, not [{b}, heads, {s}, {s}]", 5
        )
    if context.shape != (b, s, hidden):
        raise NoMatch(f"the context has shape {list(context.shape)}, not [{b}, {s}, {hidden}]", 5)
    if hidden % heads:
        raise NoMatch(f"{heads} heads do not divide the hidden size {hidden}", 5)
    return heads


def _check(
    trial: _Trial,
    heads: int,
    graph: ir.Graph,
    masks: tuple[Mask, ...],
    *,
    padded_queries: bool = True,
) -> float:
    """The scale, once everything is as it should be; without `padded_queries`, for those that are no padding."""
    scale = 0.0
    for n, pattern in enumerate(mask_patterns(graph)):
        for feeds in ways_to_hide(masks, pattern):
            (q, k, v), (scores, context, *biases) = trial.run(feeds, pattern, n)
            q4, k4, v4 = (_split(a.astype(np.float64), heads) for a in (q, k, v))
            product = q4 @ k4.swapaxes(-1, -2)
            bias = biases[0] if biases else np.zeros(1, np.float32)
            scores = scores.reshape(product.shape) - bias
            if n == 0:
                scale = float((scores * product).sum() / (product * product).sum())
                if not np.allclose(scores, scale * product, atol=_CLOSE * max(1.0, np.abs(scores).max())):
                    raise NoMatch("the Softmax input is not a multiple of query times key", 6)
            keys = pattern.astype(bool)[:, None, None, :]
            visible = np.broadcast_to(keys if masks else np.ones_like(keys), scores.shape)
            kept = pattern.astype(bool) | padded_queries
            queries = np.broadcast_to(kept[:, None, :, None], scores.shape)
            if not np.allclose(
                scores[visible & queries], (scale * product)[visible & queries], atol=_CLOSE * 10
            ):
                raise NoMatch(
                    f"keys with mask 1 are changed by the mask {pattern.tolist()}: not a plain padding mask",
                    _MASKED,
                )
            if not (scores[~visible & queries] <= HIDES).all():
                raise NoMatch(
                    f"keys with mask 0 are not hidden under the mask {pattern.tolist()}", _MASKED + 1
                )
            with np.errstate(all="ignore"):
                raised = np.where(visible, np.exp(scale * product + bias), 0.0)
            wanted = _merge((raised / raised.sum(-1, keepdims=True)) @ v4)
            if not (
                np.isfinite(context).all() and np.allclose(context[kept], wanted[kept], atol=_CLOSE * 10)
            ):
                gap = float(np.abs(context - wanted)[kept].max())
                raise NoMatch(
                    f"the result is not softmax(scores) times values (off by {gap:.3g})", _MASKED + 2
                )
    return scale


def _split(x: Array, heads: int) -> Array:
    batch, sequence, hidden = x.shape
    return np.asarray(x.reshape(batch, sequence, heads, hidden // heads).transpose(0, 2, 1, 3))


def _merge(x: Array) -> Array:
    batch, heads, sequence, size = x.shape
    return np.asarray(x.transpose(0, 2, 1, 3).reshape(batch, sequence, heads * size))


Biases = dict[tuple[Mask, ...], ir.Value]


def _bias(graph: ir.Graph, masks: tuple[Mask, ...], biases: Biases) -> ir.Value | None:
    """What is added to the scores to hide what the masks hide."""
    if masks and masks not in biases:
        w = Writer(graph, source=", ".join(mask.value.name or "" for mask in masks))
        biases[masks] = write_mask(w, write_shown(w, masks))
        made = {node for mask in masks if (node := mask.value.producer()) is not None}
        last = next((node for node in reversed(graph) if node in made), None)
        if last is None:
            graph.insert_before(graph[0], w.nodes)
        else:
            graph.insert_after(last, w.nodes)
    return biases.get(masks)


def _rewrite(graph: ir.Graph, region: Region, meaning: _Meaning, biases: Biases) -> None:
    bias = _bias(graph, meaning.masks, biases)
    boundary = [region.query.out, region.key.out, region.value.out]
    old = between(region.context, [*boundary, *graph.inputs])[-_NEAR:]
    w = Writer(graph, source=sources(n for n in old if n.op_type in _TELLING))
    made = write_attention_core(
        w,
        None,
        region.query.out,
        region.key.out,
        region.value.out,
        bias,
        heads=meaning.heads,
        head_dim=meaning.head_dim,
        scale=meaning.scale,
        position_bias=meaning.bias,
    )
    if meaning.bias is not None:
        label_bias(meaning.bias)
    same_shape(made, region.query.out)
    producer = region.context.producer()
    assert producer is not None, "the context was computed"
    graph.insert_after(producer, w.nodes)
    told = _told(region)
    take_place(region.context, made)
    if told:
        weights = next(n for n in w.nodes if n.op_type == "Softmax").outputs[0]
        take_place(region.softmaxes[0].outputs[0], weights)
        # Who reads them may come before the context.
        graph.sort()
        note(graph, "attention weights are an output: attention is compiled to several operators there")


def _told(region: Region) -> bool:
    """Do the attention weights reach an output of the graph otherwise than through the context?"""
    queue, seen = [n.outputs[0] for n in region.softmaxes], {region.context}
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        if value.is_graph_output():
            return True
        seen.add(value)
        uses = (use for use in value.consumers() if use.op_type not in ("Shape", "Size"))
        queue.extend(out for use in uses for out in use.outputs)
    return False


_TELLING = frozenset(("MatMul", "Softmax", "Transpose", "Reshape", "Mul", "Div", "Add", "Where"))

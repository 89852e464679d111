"""Word, type and position embeddings become Gathers, Adds and a LayerNormalization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.anatomy import EMBEDDING
from bqc.ir.build import Writer, dims, write_padded_position_ids, write_position_ids, write_type_ids
from bqc.ir.counting import may_rewrite
from bqc.ir.every_id import every_id
from bqc.ir.explain import NoMatch, explanation
from bqc.ir.match import is_weight, size_of
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.ir.rewrite import drop_dead, sources, take_place

__all__ = ["ImportEmbedding"]

Array = npt.NDArray[Any]

_SIZES = (Sizes(2, 3), Sizes(1, 5))
_KINDS = {"input": "an input", "zeros": "zeros", "positions": "0 .. S-1", "padded": "a count of tokens"}


@dataclass(frozen=True)
class _Lookup:
    """One `Gather(table, index)`; `kind` is `input`, `zeros`, `positions` or `padded`.

    `source` is the input that it is, or that padded positions are counted in; `pad` is their padding id.
    """

    table: ir.Value
    node: ir.Node
    kind: str
    source: ir.Value | None
    pad: int = 0


@dataclass(frozen=True)
class ImportEmbedding(ir.passes.InPlacePass):
    """Recognise the embedding by its two or three tables and what indexes them.

    Before::

        Add(Add(Gather(word, input_ids), Gather(type, any zeros)), Gather(position, any arange))     any order

    After::

        Add(Add(word, type), position), indexed by inputs, zeros [B, S] or positions [1, S]
        Add(word, position)                                     where there is no type table

    Indices are probed, not matched: an index that equals an input, 0 or 0 .. S-1 on several batches is that. They
    hold every id of the vocabulary and every position of the table.
    RoBERTa counts the tokens that are no padding: `pad + cumsum(ids != pad)`, and `pad` at padding [B, S].
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        misses, count = explanation(model), 0
        for norm in [n for n in model.graph if n.op_type == "LayerNormalization"]:
            try:
                lookups, adds = _lookups(model.graph, norm)
                if lookups:
                    count += _rewrite(model.graph, norm, lookups, adds)
            except NoMatch as no:
                misses.add("embedding", norm, str(no), no.depth)
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _lookups(graph: ir.Graph, norm: ir.Node) -> tuple[list[_Lookup], list[ir.Node]]:
    adds: list[ir.Node] = []
    terms = list(_terms(norm.inputs[0], adds))
    gathers = [t.producer() for t in terms]
    tables = [g for g in gathers if g is not None and g.op_type == "Gather" and is_weight(g.inputs[0], 2)]
    if not tables:
        return [], []
    if len(terms) != len(tables):
        others = ", ".join(g.op_type if g is not None else "a constant" for g in gathers if g not in tables)
        raise NoMatch(f"{len(tables)} table lookups are summed with something else ({others})", 1)
    if len(tables) not in (2, 3):
        raise NoMatch(f"{len(tables)} table lookups are summed, not word (+ type) + position", 2)
    sizes = sorted(size_of(gather.inputs[0], 0) for gather in tables)
    limits = {gather.inputs[1]: size_of(gather.inputs[0], 0) for gather in tables}
    return [_lookup(graph, gather, sizes, limits) for gather in tables], adds


def _terms(value: ir.Value | None, adds: list[ir.Node]) -> Iterator[ir.Value]:
    node = None if value is None else value.producer()
    if value is not None and (node is None or node.op_type != "Add"):
        yield value
    elif node is not None:
        adds.append(node)
        for operand in node.inputs:
            yield from _terms(operand, adds)


_Limits = dict[ir.Value | None, int]
"""What looks a table up itself, and the rows that it may ask for."""


def _lookup(graph: ir.Graph, gather: ir.Node, sizes: list[int], limits: _Limits) -> _Lookup:
    table, index = gather.inputs
    assert table is not None
    assert index is not None, "Gather has two inputs"
    try:
        kind, source, pad = _meaning(graph, index, size_of(table, 0), sizes, limits)
    except ProbeError as error:
        raise NoMatch(f"the index into {table.name} is not a small computation: {error}", 3) from error
    return _Lookup(table, gather, kind, source, pad)


_Meaning = tuple[str, ir.Value | None, int]


def _meaning(graph: ir.Graph, index: ir.Value, rows: int, tables: list[int], limits: _Limits) -> _Meaning:
    if index.is_graph_input():
        return "input", index, 0
    probe = Probe([index])
    read = [v for v in graph.inputs if probe.depends_on(v)]
    pads = {v: _padding(graph, probe, v) for v in read}
    kinds: set[_Meaning] | None = None
    for n, wanted in enumerate(_SIZES):
        sizes = wanted.within(graph)
        rng = np.random.default_rng(n)
        # Few different ids, so that the padding id is among them.
        feeds = {v: _typed(v, rng.integers(0, pads[v] + 4, (sizes.batch, sizes.sequence))) for v in read}
        fits = _fits(probe, feeds, pads, sizes)
        kinds = fits if kinds is None else kinds & fits
    if not kinds:
        names = ", ".join(v.name or "" for v in read) or "no input"
        raise ProbeError(f"it is no input, not 0 .. S-1 and not zeros (it depends on {names})")
    best = kind, _, pad = min(kinds, key=lambda k: k[0])
    # Types may be looked up by positions; the second largest table is that of positions, some of them for padding.
    longest = rows - pad - (kind == "padded") if kind in _COUNTED else tables[-2] // 2
    top = rows if kind == "input" else tables[-1]
    for ids in every_id(graph, max(longest, 1), top if read else 1):
        feeds = {v: _typed(v, ids % limits.get(v, top)) for v in read}
        if best not in _fits(probe, feeds, pads, Sizes(*ids.shape)):
            raise ProbeError(f"it is {_KINDS[kind]} for some ids or positions only")
    return best


def _fits(
    probe: Probe, feeds: dict[ir.Value, Array], pads: dict[ir.Value, int], sizes: Sizes
) -> set[_Meaning]:
    (found,) = probe.run(feeds, sizes)
    fits: set[_Meaning] = {("input", v, 0) for v in feeds if np.array_equal(found, feeds[v])}
    fits |= {("padded", v, pads[v]) for v in feeds if np.array_equal(found, _counted(feeds[v], pads[v]))}
    row = found.reshape(-1, sizes.sequence) if found.size % sizes.sequence == 0 else found.reshape(1, -1)
    if row.shape[1] == sizes.sequence and (row == np.arange(sizes.sequence)).all():
        fits.add(("positions", None, 0))
    if not found.any():
        fits.add(("zeros", None, 0))
    return fits


def _typed(value: ir.Value, ids: Array) -> Array:
    return ids.astype(value.dtype.numpy() if value.dtype else np.int64)


def _padding(graph: ir.Graph, probe: Probe, ids: ir.Value) -> int:
    """The padding id, if the index counts what is not padding: the first token has the position after it."""
    sizes = Sizes(1, 2).within(graph)
    shape = (sizes.batch, sizes.sequence)
    for token in (3, 4):
        (found,) = probe.run({ids: _typed(ids, np.full(shape, token))}, sizes)
        if found.shape == shape and sizes.sequence > 1 and found[0, 1] == found[0, 0] + 1:
            return max(int(found[0, 0]) - 1, 0)
    return 0


def _counted(ids: Array, pad: int) -> Array:
    kept = (ids != pad).astype(np.int64)
    return np.asarray(kept.cumsum(axis=1) * kept + pad)


def _rewrite(graph: ir.Graph, norm: ir.Node, lookups: list[_Lookup], adds: list[ir.Node]) -> bool:
    word, kind, place = _assign(lookups)
    if not may_rewrite(norm):
        return False
    ids = word.source
    assert ids is not None, "the word table is indexed by an input"
    wide = [*(dims(ids) or (None, None)), size_of(word.table, 1)]
    w = Writer(graph, source=sources([word.node]))
    w.at(EMBEDDING, "embedding.word")
    total = w.op("Gather", word.table, ids, shape=wide, axis=0)
    x_type = None
    if kind is not None:
        w.source = sources([kind.node])
        type_ids = kind.source if kind.source is not None else write_type_ids(w, ids)
        w.at(EMBEDDING, "embedding.type")
        x_type = w.op("Gather", kind.table, type_ids, shape=wide, axis=0)
    w.source = sources([place.node])
    position_ids = _position_ids(w, ids, place)
    w.at(EMBEDDING, "embedding.position")
    batch = 1 if place.kind == "positions" else wide[0]
    x_place = w.op("Gather", place.table, position_ids, shape=[batch, *wide[1:]], axis=0)
    w.source = sources(adds)
    w.at(EMBEDDING, "embedding.sum")
    if x_type is not None:
        total = w.op("Add", total, x_type, shape=wide)
    total = w.op("Add", total, x_place, shape=wide)
    old = norm.inputs[0]
    assert old is not None, "LayerNormalization has an input"
    graph.insert_before(norm, w.nodes)
    take_place(old, total)
    return True


def _position_ids(w: Writer, ids: ir.Value, place: _Lookup) -> ir.Value:
    if place.kind == "padded" and place.source is not None:
        return write_padded_position_ids(w, place.source, place.pad)
    return place.source if place.source is not None else write_position_ids(w, ids)


def _assign(lookups: list[_Lookup]) -> tuple[_Lookup, _Lookup | None, _Lookup]:
    """Word, type, position: by what indexes them, then by name and size."""
    rest = list(lookups)
    inputs = [one for one in rest if one.kind == "input"]
    word = max(inputs, key=lambda one: (_named(one, "input_ids"), size_of(one.table, 0)), default=None)
    if word is None:
        raise NoMatch("no table is indexed by a graph input", 4)
    rest.remove(word)
    rest.sort(key=lambda one: (one.kind in _COUNTED, _named(one, "position"), size_of(one.table, 0)))
    kind, place = rest if len(rest) == 2 else (None, rest[0])
    if (kind is not None and kind.kind in _COUNTED) or place.kind == "zeros":
        found = " and ".join(one.kind for one in rest)
        raise NoMatch(f"beside the words there are {found}, not types and positions", 5)
    if kind is None and place.kind == "input" and not _named(place, "position"):
        raise NoMatch("beside the words there is one table, and it is not indexed by positions", 5)
    return word, kind, place


_COUNTED = ("positions", "padded")


def _named(lookup: _Lookup, text: str) -> bool:
    return lookup.source is not None and text in (lookup.source.name or "")

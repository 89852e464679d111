"""Terms of the embedding that amount to looking a table up become Gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_position_ids, write_type_ids
from bqc.ir.counting import may_rewrite
from bqc.ir.every_id import every_id
from bqc.ir.match import is_weight, size_of
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.ir.rewrite import between, drop_dead, sources, take_place

__all__ = ["ImportLookup"]

Array = npt.NDArray[Any]

_SIZES = (Sizes(2, 3), Sizes(1, 5))
_USUAL = 512


@dataclass(frozen=True)
class ImportLookup(ir.passes.InPlacePass):
    """Recognise lookups by what rows they return.

    Before::

        Reshape(Gather(table, Reshape(ids, [-1])), [B, S, H])
        Reshape(MatMul(OneHot(types), table), [B, S, H])
        Unsqueeze(Slice(table, [0], [S]), [0])

    After::

        Gather(table, ids);  Gather(table, types);  Gather(table, 0 .. S-1)

    The table is replaced by one whose rows hold their number; what comes out is the index. It is looked at for every
    id and every position.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        for norm in [n for n in graph if n.op_type == "LayerNormalization"]:
            for term in _terms(norm.inputs[0]):
                node = term.producer()
                if node is None or (node.op_type == "Gather" and is_weight(node.inputs[0], 2)):
                    continue
                table = _table(term)
                index = None if table is None else _index(graph, term, table)
                if table is None or index is None or not may_rewrite(node):
                    continue
                w = Writer(graph, source=sources(between(term, graph.inputs)[-8:]))
                kind, source = index
                ids = source if kind == "input" else write_position_ids(w, source)
                if kind == "zeros":
                    w.nodes.clear()
                    ids = write_type_ids(w, source)
                made = w.at(None, None).op("Gather", table, ids, axis=0)
                graph.insert_after(node, w.nodes)
                take_place(term, made)
                count += 1
        if count:
            drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _terms(value: ir.Value | None) -> Iterator[ir.Value]:
    node = None if value is None else value.producer()
    if value is not None and (node is None or node.op_type != "Add"):
        yield value
    elif node is not None:
        for operand in node.inputs:
            yield from _terms(operand)


def _table(term: ir.Value) -> ir.Value | None:
    """The one matrix of numbers that the term is made of."""
    found: set[ir.Value] = set()
    queue, seen = [term], set[ir.Value]()
    while queue and len(seen) < 40:
        value = queue.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if is_weight(value, 2) and value.dtype == ir.DataType.FLOAT:
            found.add(value)
        elif node is not None:
            if node.op_type == "LayerNormalization":
                return None
            queue.extend(v for v in node.inputs if v is not None)
    return found.pop() if len(found) == 1 else None


_Fit = tuple[str, ir.Value]


def _index(graph: ir.Graph, term: ir.Value, table: ir.Value) -> _Fit | None:
    rows, width = size_of(table, 0), size_of(table, 1)
    numbers = np.broadcast_to(np.arange(rows, dtype=np.float32)[:, None], (rows, width)).copy()
    try:
        probe = Probe([term], [table])
        read = [v for v in graph.inputs if probe.depends_on(v)]
        # Only the size of the ids may be read, which a probe is given.
        like = (read or [v for v in graph.inputs if v.shape is not None and len(v.shape) == 2])[:1]

        def fits(ids: dict[ir.Value, Array], sizes: Sizes) -> set[_Fit]:
            (found,) = probe.run({table: numbers, **ids}, sizes)
            return _fits(found, ids, like, (sizes.sequence, width))

        kinds: set[_Fit] | None = None
        for n, wanted in enumerate(_SIZES):
            sizes = wanted.within(graph)
            rng = np.random.default_rng(n)
            shape = sizes.batch, sizes.sequence
            some = fits({v: _typed(v, rng.integers(0, min(rows, 90), shape)) for v in read}, sizes)
            kinds = some if kinds is None else kinds & some
        if not kinds:
            return None
        # The one row of a table is that of zeros, whichever input could say so.
        best = kind, _ = min(kinds, key=lambda k: (rows == 1 and k[0] != "zeros", k[0], k[1].name or ""))
        top = rows if kind == "input" else _vocabulary(graph)
        for every in every_id(graph, rows if kind == "positions" else _USUAL, top if read else 1):
            if best not in fits({v: _typed(v, every) for v in read}, Sizes(*every.shape)):
                return None
    except ProbeError:
        return None
    return best


def _fits(
    found: Array, ids: dict[ir.Value, Array], like: list[ir.Value], inner: tuple[int, int]
) -> set[_Fit]:
    """What the rows that were found are: those of ids, of positions, of zeros."""
    if found.shape[-2:] != inner or (found != found[..., :1]).any():
        return set()
    index = found[..., 0].astype(np.int64)
    fits = {("input", v) for v in ids if np.array_equal(index, ids[v])}
    if (index == np.arange(inner[0])).all():
        fits |= {("positions", v) for v in like}
    if not index.any():
        fits |= {("zeros", v) for v in like}
    return fits


def _typed(value: ir.Value, ids: Array) -> Array:
    return ids.astype(value.dtype.numpy() if value.dtype else np.int64)


def _vocabulary(graph: ir.Graph) -> int:
    return max(size_of(v, 0) for v in graph.initializers.values() if is_weight(v, 2))

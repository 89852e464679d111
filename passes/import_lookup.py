"""Terms of the embedding that amount to looking a table up become Gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_position_ids, write_type_ids
from bqc.ir.counting import may_rewrite
from bqc.ir.match import is_weight, size_of
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.ir.rewrite import between, drop_dead, sources, take_place

__all__ = ["ImportLookup"]

_SIZES = (Sizes(2, 3), Sizes(1, 5))


@dataclass(frozen=True)
class ImportLookup(ir.passes.InPlacePass):
    """Recognise lookups by what rows they return.

    Before::

        Reshape(Gather(table, Reshape(ids, [-1])), [B, S, H])
        Reshape(MatMul(OneHot(types), table), [B, S, H])
        Unsqueeze(Slice(table, [0], [S]), [0])

    After::

        Gather(table, ids);  Gather(table, types);  Gather(table, 0 .. S-1)

    The table is replaced by one whose rows hold their number; what comes out is the index.
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


def _index(graph: ir.Graph, term: ir.Value, table: ir.Value) -> tuple[str, ir.Value] | None:
    rows, width = size_of(table, 0), size_of(table, 1)
    numbers = np.broadcast_to(np.arange(rows, dtype=np.float32)[:, None], (rows, width)).copy()
    try:
        probe = Probe([term], [table])
        read = [v for v in graph.inputs if probe.depends_on(v)]
        # Only the size of the ids may be read, which a probe is given.
        like = (read or [v for v in graph.inputs if v.shape is not None and len(v.shape) == 2])[:1]
        kinds: set[tuple[str, ir.Value]] | None = None
        for n, wanted in enumerate(_SIZES):
            sizes = wanted.within(graph)
            rng = np.random.default_rng(n)
            feeds = {
                v: rng.integers(0, min(rows, 90), (sizes.batch, sizes.sequence)).astype(
                    v.dtype.numpy() if v.dtype else np.int64
                )
                for v in read
            }
            (found,) = probe.run({table: numbers, **feeds}, sizes)
            if found.shape[-2:] != (sizes.sequence, width) or (found != found[..., :1]).any():
                return None
            index = found[..., 0].astype(np.int64)
            fits = {("input", v) for v in read if np.array_equal(index, feeds[v])}
            if (index == np.arange(sizes.sequence)).all():
                fits |= {("positions", v) for v in like}
            if not index.any():
                fits |= {("zeros", v) for v in like}
            kinds = fits if kinds is None else kinds & fits
    except ProbeError:
        return None
    return min(kinds, key=lambda k: k[0]) if kinds else None

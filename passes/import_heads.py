"""Heads that have linears of their own share three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, dims, write_linear
from bqc.ir.counting import may_rewrite
from bqc.ir.match import Linear, size_of
from bqc.ir.rewrite import drop_dead, sources, take_place
from bqc.passes._attention_region import Region, in_order, regions
from bqc.passes.import_weights import free_name, lazily

__all__ = ["ImportHeads"]


@dataclass(frozen=True)
class ImportHeads(ir.passes.InPlacePass):
    """Give all heads of an attention one query, one key and one value linear.

    Before: `q0 = Add(MatMul(x, W0[K, d]), b0[d])`, `q1 = Add(MatMul(x, W1[K, d]), b1[d])`, `Concat(head0, head1)`
    After: `q = Add(MatMul(x, W[K, 2d]), b[2d])`, `q0, q1 = Split(q)`, W and b side by side as the Concat has the heads

    `import-attention` then looks at what the heads compute.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        for heads in _groups(model.graph):
            parts = [[getattr(head, name) for head in heads] for name in ("query", "key", "value")]
            if all(map(_alike, parts)) and may_rewrite(heads[0].softmaxes[0]):
                for part in parts:
                    _join(model.graph, part)
                count += 1
        if count:
            model.graph.sort()
            drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _groups(graph: ir.Graph) -> list[list[Region]]:
    """What ends in one context, in the order in which it merges them."""
    found: dict[ir.Value, dict[ir.Node, Region]] = {}
    for one in regions(graph):
        found.setdefault(one.context, {}).update(dict.fromkeys(one.softmaxes, one))
    return [[of[n] for n in in_order(tuple(of), context)] for context, of in found.items() if len(of) > 1]


def _alike(linears: Sequence[Linear]) -> bool:
    """Different linears of one input and one width."""
    return (
        len({one.out for one in linears}) == len(linears)
        and len({one.x for one in linears}) == 1
        and len({size_of(one.weight, 1) for one in linears}) == 1
    )


def _join(graph: ir.Graph, linears: Sequence[Linear]) -> None:
    w = Writer(graph, source=sources(node for one in linears for node in one.nodes))
    x, width = linears[0].x, size_of(linears[0].weight, 1)
    weight = _side_by_side(graph, [one.weight for one in linears])
    bias = _side_by_side(graph, [one.bias for one in linears])
    out = write_linear(w, x, weight, bias)
    sizes = w.shared(f"heads_{len(linears)}_{width}", np.full(len(linears), width, np.int64))
    split = ir.node("Split", [out, sizes], {"axis": -1}, num_outputs=len(linears))
    graph.insert_after(linears[0].nodes[-1], [*w.nodes, split])
    lead = dims(x)
    for one, part in zip(linears, split.outputs, strict=True):
        part.dtype = ir.DataType.FLOAT
        part.shape = one.out.shape or (None if lead is None else ir.Shape([*lead[:-1], width]))
        take_place(one.out, part)


def _side_by_side(graph: ir.Graph, values: Sequence[ir.Value]) -> ir.Value:
    """One initializer of several, along the last axis; read when it is needed."""
    tensors = [value.const_value for value in values if value.const_value is not None]
    first = tensors[0]
    sizes = [*(int(n) for n in first.shape.numpy()[:-1]), sum(int(t.shape.numpy()[-1]) for t in tensors)]
    made = lazily(
        values[0],
        first.dtype,
        sizes,
        lambda _: np.concatenate([np.asarray(t.numpy()) for t in tensors], axis=-1),
    )
    made.name = free_name(graph, f"{values[0].name}.heads")
    graph.register_initializer(made)
    return made

"""Query, key and value from one matrix product become three linears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_linear
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import NoMatch, explanation
from bqc.ir.match import Linear, as_linear, is_product, size_of, walk_back
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.ir.rewrite import between, drop_dead, sources
from bqc.passes._attention_region import context_of
from bqc.passes.import_weights import free_name, lazily

__all__ = ["ImportPacked"]

Array = npt.NDArray[Any]

_PARTS = ("query", "key", "value")
_SIZES = Sizes(2, 3)


@dataclass(frozen=True)
class ImportPacked(ir.passes.InPlacePass):
    """Give query, key and value a linear each.

    Before::

        p = Add(MatMul(x, W[K, 3H]), b[3H]);  q4, k4, v4 = any Split, Slice, Reshape, Transpose, Gather of p

    After::

        q = Add(MatMul(x, W[:, columns of q]), b[columns of q]);  q4 = Transpose(Reshape(q, [0, 0, h, d]))   and so on

    Which columns an operand of the attention consists of is probed: columns that hold their own number come out
    where they are used. So interleaved heads (`[B, S, h, 3, d]`) are as good as consecutive ones.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        misses = explanation(model)
        for softmax in [n for n in graph if n.op_type == "Softmax"]:
            found = _operands(softmax)
            if found is None:
                continue
            packed, operands = found
            try:
                taken = [_columns(packed, value) for value, _, _ in operands]
            except (NoMatch, ProbeError) as no:
                misses.add("packed", softmax, str(no), 2)
                continue
            if not may_rewrite(softmax):
                continue
            for part, (value, user, index), (columns, turned, factor) in zip(
                _PARTS, operands, taken, strict=True
            ):
                w = Writer(graph, source=sources([*packed.nodes, *between(value, [packed.out])][:8]))
                made = _write(w, packed, part, columns, turned, factor)
                graph.insert_before(user, w.nodes)
                user.replace_input_with(index, made)
            count += 1
        if count:
            drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


Operand = tuple[ir.Value, ir.Node, int]


def _operands(softmax: ir.Node) -> tuple[Linear, list[Operand]] | None:
    """The packed linear and the operands of both products, where all three come from one linear."""
    products = walk_back(softmax.inputs[0], is_product) if softmax.inputs[0] is not None else []
    scores = products[0].producer() if len(products) == 1 else None
    if scores is None:
        return None
    try:
        user, index = context_of(softmax)
    except NoMatch:
        return None
    operands = [
        (scores.inputs[0], scores, 0),
        (scores.inputs[1], scores, 1),
        (user.inputs[index], user, index),
    ]
    linears: set[ir.Value] = set()
    for value, _, _ in operands:
        found = [] if value is None else walk_back(value, lambda v: as_linear(v) is not None)
        if len(found) != 1:
            return None
        linears.add(found[0])
    packed = as_linear(linears.pop()) if len(linears) == 1 else None
    return None if packed is None else (packed, [(v, n, i) for v, n, i in operands if v is not None])


def _columns(packed: Linear, value: ir.Value) -> tuple[Array, bool, float]:
    """`columns[h, d]` of `value[B, h, S, d]`, whether it is `[B, h, d, S]`, and a constant factor."""
    width = size_of(packed.weight, 1)
    batch, sequence = _SIZES.batch, _SIZES.sequence
    probe = Probe([value], [packed.out])
    ones = np.ones((batch, sequence, width), np.float32)
    (level,) = probe.run({packed.out: ones}, _SIZES)
    factor = float(level.reshape(-1)[0])
    if level.ndim != 4 or factor == 0 or not np.allclose(level, factor):
        raise NoMatch(f"an operand of the attention is no part of the packed linear ({list(level.shape)})", 0)
    numbers = np.arange(ones.size, dtype=np.float32).reshape(ones.shape)
    (found,) = probe.run({packed.out: numbers}, _SIZES)
    exact = np.rint(found / factor).astype(np.int64)
    for turned, axes in ((False, (0, 2, 1, 3)), (True, (0, 3, 1, 2))):
        tokens = exact.transpose(axes)
        if tokens.shape[:2] != (batch, sequence):
            continue
        columns = tokens[0, 0]
        start = np.arange(batch * sequence).reshape(batch, sequence, 1, 1) * width
        if (tokens == start + columns).all():
            return columns, turned, factor
    raise NoMatch("an operand of the attention is not made of columns of the packed linear", 1)


def _write(w: Writer, packed: Linear, part: str, columns: Array, turned: bool, factor: float) -> ir.Value:
    heads, size = columns.shape
    order = columns.reshape(-1)
    weight = _taken(w.graph, packed.weight, part, order)
    bias = _taken(w.graph, packed.bias, part, order)
    out = write_linear(w, packed.x, weight, bias)
    split = w.op("Reshape", out, w.shared("heads_split", np.array([0, 0, heads, size], np.int64)))
    made = w.op("Transpose", split, perm=[0, 2, 3, 1] if turned else [0, 2, 1, 3])
    if factor != 1.0:
        made = w.op("Mul", made, w.shared("packed_factor", np.float32(factor)))
    return made


def _taken(graph: ir.Graph, value: ir.Value, part: str, columns: Array) -> ir.Value:
    """Columns of a weight or bias, as an initializer that is read when it is needed."""
    tensor = value.const_value
    assert tensor is not None, "a linear has constant weights"
    sizes = [*(int(n) for n in tensor.shape.numpy()[:-1]), len(columns)]
    made = lazily(value, tensor.dtype, sizes, lambda a: a[..., columns])
    made.name = free_name(graph, f"{value.name}.{part}")
    graph.register_initializer(made)
    return made

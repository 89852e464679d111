"""Einsum of two operands becomes Transpose, Reshape and MatMul."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import explanation
from bqc.ir.match import is_weight, only_consumer
from bqc.ir.rewrite import drop_dead, sources, take_place
from bqc.passes.import_weights import lazily

__all__ = ["ImportEinsum"]


@dataclass(frozen=True)
class ImportEinsum(ir.passes.InPlacePass):
    """Say products written as Einsum with MatMul.

    Before::

        Einsum(x, W; "abc,cd->abd"),  Add(Einsum(x, W[K, h, d]; "abc,cde->abde"), b[h, d]),
        Einsum(c, W[h, d, N]; "abcd,cde->abe"),  Einsum(k, q; "aecd,abcd->acbe")

    After::

        MatMul(x, W),  Reshape(Add(MatMul(x, W[K, h d]), b[h d]), [0, 0, h, d]),
        MatMul(Reshape(c, [0, 0, h d]), W[h d, N]),  MatMul of transposed operands, transposed

    One contracted axis between activations, any number of adjacent ones with weights.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        for node in [n for n in graph if n.op_type == "Einsum" and len(n.inputs) == 2]:
            equation = (node.attributes.get_string("equation", "") or "").replace(" ", "")
            w = Writer(graph, source=sources([node]))
            old, made = _dense(w, node, equation) if is_weight(node.inputs[1]) else (None, None)
            if made is None and not any(is_weight(v) for v in node.inputs):
                old, made = node.outputs[0], _product(w, node, equation)
            if made is None or old is None:
                explanation(model).add("einsum", node, f"its equation {equation!r} is no matrix product", 1)
                continue
            if not may_rewrite(node):
                continue
            producer = old.producer()
            assert producer is not None, "just matched"
            graph.insert_after(producer, w.nodes)
            take_place(old, made)
            count += 1
        if count:
            drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _parts(equation: str) -> tuple[str, str, str] | None:
    left, arrow, out = equation.partition("->")
    a, comma, b = left.partition(",")
    plain = arrow and comma and all(p.isalpha() and len(set(p)) == len(p) for p in (a, b, out))
    return (a, b, out) if plain else None


def _dense(w: Writer, node: ir.Node, equation: str) -> tuple[ir.Value | None, ir.Value | None]:
    """A product with a weight: its contracted axes first in the weight and last in the operand."""
    parts = _parts(equation)
    x, weight = node.inputs
    if parts is None or x is None or weight is None or weight.const_value is None:
        return None, None
    a, b, out = parts
    summed = "".join(c for c in b if c in a)
    free = b[len(summed) :]
    lead = a[: len(a) - len(summed)]
    if (
        not (summed and free and a.endswith(summed) and b.startswith(summed) and out == lead + free)
        or len(lead) != 2
    ):
        return None, None
    sizes = [int(n) for n in weight.const_value.shape.numpy()]
    rows, columns = (int(np.prod(part)) for part in (sizes[: len(summed)], sizes[len(summed) :]))
    if len(sizes) != 2:
        weight = _reshaped(w, weight, [rows, columns])
    if len(summed) > 1:
        x = w.op("Reshape", x, w.shared("einsum_merged", np.array([0, 0, rows], np.int64)))
    old, made = node.outputs[0], w.op("MatMul", x, weight)
    if len(free) > 1:
        # The bias that follows belongs to the product, not to what it is reshaped to.
        add = only_consumer(old)
        bias = next((v for v in add.inputs if is_weight(v, len(free))), None) if add is not None else None
        if add is not None and add.op_type == "Add" and bias is not None:
            made = w.op("Add", made, _reshaped(w, bias, [columns]))
            old = add.outputs[0]
        inner = sizes[len(summed) :]
        made = w.op("Reshape", made, w.shared("einsum_split", np.array([0, 0, *inner], np.int64)))
    return old, made


def _reshaped(w: Writer, value: ir.Value, sizes: list[int]) -> ir.Value:
    """A constant in another shape; the old one goes when nobody reads it any more."""
    made = lazily(value, value.dtype or ir.DataType.FLOAT, sizes, lambda a: a.reshape(sizes))
    base = f"{value.name}.matrix"
    made.name = next(
        n for n in (base, *(f"{base}.{i}" for i in range(1, 1000))) if n not in w.graph.initializers
    )
    w.graph.register_initializer(made)
    return made


def _product(w: Writer, node: ir.Node, equation: str) -> ir.Value | None:
    parts = _parts(equation)
    if parts is None:
        return None
    a, b, out = parts
    batch = [c for c in out if c in a and c in b]
    summed = [c for c in a if c in b and c not in out]
    rows, columns = [c for c in out if c in a and c not in b], [c for c in out if c in b and c not in a]
    if [len(summed), len(rows), len(columns)] != [1, 1, 1] or len(batch) + 2 != len(a) or len(a) != len(b):
        return None
    # The operand whose free axis comes first in the result is the left one.
    swapped = out.index(columns[0]) < out.index(rows[0])
    x, y = node.inputs
    if swapped:
        a, b, x, y, rows, columns = b, a, y, x, columns, rows
    left = _turned(w, x, a, "".join([*batch, *rows, *summed]))
    right = _turned(w, y, b, "".join([*batch, *summed, *columns]))
    return _turned(w, w.op("MatMul", left, right), "".join([*batch, *rows, *columns]), out)


def _turned(w: Writer, value: ir.Value | None, axes: str, wanted: str) -> ir.Value:
    assert value is not None, "Einsum has two operands"
    return value if axes == wanted else w.op("Transpose", value, perm=[axes.index(c) for c in wanted])

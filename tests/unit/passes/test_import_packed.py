"""Query, key and value in one product, however they are taken apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.ir import Explanation, import_model
from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer
from bqc.ir.structure import difference
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import largest_difference

HEADS, SIZE = 2, 16
HIDDEN = HEADS * SIZE
Parts = list[ir.Value]


def ints(w: Writer, *numbers: int) -> ir.Value:
    return w.shared(f"i{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))


def heads(w: Writer, parts: Parts) -> Parts:
    """`[B, S, H]` each to `q4, k4, v4`."""
    split = ints(w, 0, 0, HEADS, SIZE)
    perms = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    return [
        w.op("Transpose", w.op("Reshape", p, split), perm=perm) for p, perm in zip(parts, perms, strict=True)
    ]


def by_split(w: Writer, packed: ir.Value) -> Parts:
    node = ir.node("Split", [packed, ints(w, HIDDEN, HIDDEN, HIDDEN)], {"axis": -1}, num_outputs=3)
    w.nodes.append(node)
    return heads(w, list(node.outputs))


def by_slice(w: Writer, packed: ir.Value) -> Parts:
    last = ints(w, 2)
    return heads(
        w,
        [w.op("Slice", packed, ints(w, n * HIDDEN), ints(w, (n + 1) * HIDDEN), last) for n in range(3)],
    )


def by_gather(w: Writer, packed: ir.Value) -> Parts:
    """`[B, S, 3, h, d]`, transposed to `[3, B, h, S, d]`, one by one."""
    five = w.op("Reshape", packed, ints(w, 0, 0, 3, HEADS, SIZE))
    turned = w.op("Transpose", five, perm=[2, 0, 3, 1, 4])
    q, k, v = (w.op("Gather", turned, w.shared(f"n{n}", np.int64(n)), axis=0) for n in range(3))
    return [w.op("Mul", q, w.shared("pre", np.float32(0.5))), w.op("Transpose", k, perm=[0, 1, 3, 2]), v]


PACKINGS: dict[str, tuple[Callable[[Writer, ir.Value], Parts], str]] = {
    "split": (by_split, "parts"),
    "slice": (by_slice, "parts"),
    "gather": (by_gather, "parts"),
}


def packed(packing: str) -> ir.Model:
    """The canonical encoder with packed projections."""
    model = canonical_bert(hidden=HIDDEN, heads=HEADS)
    take, _ = PACKINGS[packing]
    for layer in ("0", "1"):
        roles = [f"attention.{name}" for name in ("query", "key", "value")]
        nodes = [list(nodes_of(model, layer, role)) for role in roles]
        weights = [n[0].inputs[1].const_value.numpy() for n in nodes]  # type: ignore[union-attr]
        biases = [n[1].inputs[1].const_value.numpy() for n in nodes]  # type: ignore[union-attr]
        w = Writer(model.graph)
        weight, bias = w.const("packed", np.concatenate(weights, 1)), w.const("bias", np.concatenate(biases))
        out = w.op("Add", w.op("MatMul", nodes[0][0].inputs[0], weight), bias)
        for made, old in zip(take(w, out), nodes, strict=True):
            old[-1].outputs[0].replace_all_uses_with(made)
        model.graph.insert_after(nodes[0][-1], w.nodes)
    return ir.from_proto(ir.to_proto(model))


@pytest.mark.parametrize("packing", PACKINGS)
def test_becomes_three_linears(packing: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    source, again = packed(packing), packed(packing)
    imported, summary = import_model(source)
    assert not summary.misses
    assert largest_difference(again, imported) < 1e-5
    if packing != "gather":  # which scales its queries
        assert (
            difference(imported, import_model(canonical_bert(hidden=HIDDEN, heads=HEADS))[0], tolerance=0)
            is None
        )
    path = tmp_path_factory.mktemp("packed") / "out.onnx"
    result = bqc.compile(again, output=path)
    assert result.operators == bqc.compile(canonical_bert(hidden=HIDDEN, heads=HEADS), output=path).operators


def test_squared_scores_stay_float() -> None:
    model = packed("split")
    softmax = next(n for n in model.graph if n.op_type == "Softmax")
    w = Writer(model.graph)
    squared = w.op("Mul", softmax.inputs[0], softmax.inputs[0])
    softmax.replace_input_with(0, squared)
    model.graph.insert_before(softmax, w.nodes)
    _, summary = import_model(model)
    assert [part.part for part in summary.encoder.float_parts] == ["0:attention"]


def test_operands_that_mix_columns_stay_float() -> None:
    """A key that is reversed in time is made of the columns, but not token by token."""
    model = packed("split")
    split = next(n for n in model.graph if n.op_type == "Split")
    w = Writer(model.graph)
    key = split.outputs[1]
    late = w.op("Slice", key, ints(w, -1), ints(w, -(2**31)), ints(w, 1), ints(w, -1))
    key.replace_all_uses_with(late)
    w.nodes[0].replace_input_with(0, key)
    model.graph.insert_after(split, w.nodes)
    explain = Explanation()
    _, summary = import_model(model, explain=explain)
    assert [part.part for part in summary.encoder.float_parts] == ["0:attention"]
    assert "not made of columns of the packed linear" in str(explain)

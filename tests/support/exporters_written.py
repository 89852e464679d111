"""The canonical form of any float encoder with one thing written in another way: masks, norms, activations, inputs.

Each way is a function from a canonical model, whose nodes have labels, to the same computation in other nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from bqc.ir import import_model
from bqc.ir.anatomy import LAYER_KEY, nodes_of
from bqc.ir.build import Writer
from bqc.ir.match import as_linear

__all__ = ["EXPORTERS", "WAYS", "Change", "heads_merged_backwards", "mask", "unlabelled"]

Change = Callable[[ir.Model], None]
"""Changes a canonical model, whose nodes have labels, in place."""

F32, F64, I32, I64, BOOL = (
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.INT32,
    ir.DataType.INT64,
    ir.DataType.BOOL,
)


def _input(model: ir.Model, name: str) -> ir.Value:
    return next(v for v in model.graph.inputs if v.name == name)


def _written(model: ir.Model, old: ir.Value, make: Callable[[Writer], ir.Value], before: ir.Node) -> None:
    """What read `old` reads what `make` writes before that node."""
    users = list(old.uses())
    w = Writer(model.graph)
    made = make(w)
    model.graph.insert_before(before, w.nodes)
    for user, index in users:
        user.replace_input_with(index, made)


def _ints(w: Writer, *values: int) -> ir.Value:
    return w.shared("ints", np.array(values, np.int64))


# Masks


def mask(make: Callable[[Writer, ir.Model], ir.Value], inputs: str = "attention_mask") -> Change:
    """`make` writes what is added to the scores, of an input that may have another name."""

    def change(model: ir.Model) -> None:
        bias = [n for n in nodes_of(model, role="attention.mask") if n.op_type == "Mul"][-1]
        _input(model, "attention_mask").name = inputs
        first = next(n for n in model.graph if bias.outputs[0] in n.inputs)
        _written(model, bias.outputs[0], lambda w: make(w, model), first)

    return change


def _low(w: Writer, hidden: ir.Value, low: float = -10000.0) -> ir.Value:
    """`low` at hidden[B, S]."""
    wide = w.op("Unsqueeze", hidden, _ints(w, 1, 2), dtype=BOOL)
    return w.op("Where", wide, w.const("low", np.float32(low)), w.const("none", np.float32(0)))


def _plain(low: float) -> Callable[[Writer, ir.Model], ir.Value]:
    def make(w: Writer, model: ir.Model) -> ir.Value:
        return _low(
            w, w.op("Equal", _input(model, "attention_mask"), w.const("no", np.int64(0)), dtype=BOOL), low
        )

    return make


def _times(low: float) -> Callable[[Writer, ir.Model], ir.Value]:
    def make(w: Writer, model: ir.Model) -> ir.Value:
        m = w.op("Unsqueeze", w.op("Cast", _input(model, "attention_mask"), to=int(F32)), _ints(w, 1, 2))
        return w.op("Mul", w.op("Sub", w.const("one", np.float32(1)), m), w.const("low", np.float32(low)))

    return make


def _inverted(dtype: ir.DataType) -> Callable[[Writer, ir.Model], ir.Value]:
    def make(w: Writer, model: ir.Model) -> ir.Value:
        given = _input(model, "padding_mask")
        given.dtype = dtype
        m = w.op("Cast", w.op("Unsqueeze", given, _ints(w, 1, 2), dtype=dtype), to=int(F32))
        return w.op("Mul", m, w.const("low", np.float32(-10000)))

    return make


def _inverted_bool(w: Writer, model: ir.Model) -> ir.Value:
    given = _input(model, "padding_mask")
    given.dtype = BOOL
    return _low(w, given, -np.inf)


def _and_ids(low: float) -> Callable[[Writer, ir.Model], ir.Value]:
    def make(w: Writer, model: ir.Model) -> ir.Value:
        ids, given = _input(model, "input_ids"), _input(model, "attention_mask")
        no = w.const("no", np.int64(0))
        kept = w.op("Not", w.op("Equal", ids, no, dtype=BOOL), dtype=BOOL)
        both = w.op("Mul", given, w.op("Cast", kept, dtype=I64, to=int(I64)), dtype=I64)
        return _low(w, w.op("Equal", both, no, dtype=BOOL), low)

    return make


def _added_ids(w: Writer, model: ir.Model) -> ir.Value:
    ids = _input(model, "input_ids")
    padding = _low(w, w.op("Equal", ids, w.const("no", np.int64(0)), dtype=BOOL), -1e9)
    return w.op("Add", padding, _times(-1e9)(w, model))


def _both_sides(w: Writer, model: ir.Model) -> ir.Value:
    m = w.op("Cast", _input(model, "attention_mask"), to=int(F32))
    square = w.op("Mul", w.op("Unsqueeze", m, _ints(w, 2)), w.op("Unsqueeze", m, _ints(w, 1)))
    off = w.op("Sub", w.const("one", np.float32(1)), w.op("Unsqueeze", square, _ints(w, 1)))
    return w.op("Mul", off, w.const("low", np.float32(-10000)))


MASKS = {
    "mask-where-1e4": mask(_plain(-1e4)),
    "mask-where-inf": mask(_plain(-np.inf)),
    "mask-where-min": mask(_plain(float(np.finfo(np.float32).min))),
    "mask-times-1e9": mask(_times(-1e9)),
    "mask-times-half-min": mask(_times(-65504)),
    "mask-inverted-int": mask(_inverted(I64), "padding_mask"),
    "mask-inverted-float": mask(_inverted(F32), "padding_mask"),
    "mask-inverted-bool": mask(_inverted_bool, "padding_mask"),
    "mask-and-ids": mask(_and_ids(-1e9)),
    "mask-plus-ids": mask(_added_ids),
    "mask-of-both-sides": mask(_both_sides),
}

# Norms


def _norms(make: Callable[[Writer, ir.Node], ir.Value]) -> Change:
    """`make` writes each norm in another way."""

    def change(model: ir.Model) -> None:
        for node in [n for n in model.graph if n.op_type == "LayerNormalization"]:
            w = Writer(model.graph)
            made = make(w, node)
            made.shape = node.outputs[0].shape
            model.graph.insert_after(node, w.nodes)
            node.outputs[0].replace_all_uses_with(made, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)

    return change


def _number(w: Writer, name: str, value: float) -> ir.Value:
    return w.shared(name, np.float32(value))


def _without_vectors(w: Writer, node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    d = w.op("Sub", x, w.op("ReduceMean", x, _ints(w, -1)))
    v = w.op("ReduceMean", w.op("Mul", d, d), _ints(w, -1))
    return w.op("Div", d, w.op("Sqrt", w.op("Add", v, _number(w, "epsilon", 1e-5))))


def _by_moments(w: Writer, node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    m = w.op("ReduceMean", x, _ints(w, -1))
    square = w.op("ReduceMean", w.op("Mul", x, x), _ints(w, -1))
    v = w.op("Sub", square, w.op("Mul", m, m))
    r = w.op("Pow", w.op("Add", v, _number(w, "epsilon", 1e-5)), _number(w, "root", -0.5))
    n = w.op("Mul", w.op("Sub", x, m), r)
    return w.op("Add", w.op("Mul", n, node.inputs[1]), node.inputs[2])


def _by_sums(w: Writer, node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    assert x.shape is not None
    d = w.op("Sub", x, w.op("ReduceMean", x, _ints(w, -1)))
    v = w.op("Div", w.op("ReduceSumSquare", d, _ints(w, -1)), _number(w, "width", float(x.shape[-1])))  # type: ignore[arg-type]
    r = w.op("Reciprocal", w.op("Sqrt", w.op("Add", v, _number(w, "epsilon", 1e-5))))
    return w.op("Mul", w.op("Mul", d, r), node.inputs[1])


NORMS = {
    "norm-without-vectors": _norms(_without_vectors),
    "norm-by-moments": _norms(_by_moments),
    "norm-by-sums-without-beta": _norms(_by_sums),
}

# Heads


def _heads(take: Callable[[Writer, ir.Value, int, int], list[ir.Value]], order: int = 1) -> Change:
    """Attention head by head; `take` makes the heads of a projection. They are merged in order, or backwards."""

    def change(model: ir.Model) -> None:
        for softmax in nodes_of(model, role="attention.softmax"):
            layer = softmax.metadata_props[LAYER_KEY]
            last = list(nodes_of(model, layer, "attention.context"))[-1]
            q, k, v = (
                next(n for n in nodes_of(model, layer, f"attention.{one}") if n.op_type == "Reshape").inputs[
                    0
                ]
                for one in ("query", "key", "value")
            )
            assert q is not None
            assert k is not None
            assert v is not None
            split = next(n for n in nodes_of(model, layer, "attention.query") if n.op_type == "Reshape")
            shape = split.inputs[1]
            assert shape is not None
            assert shape.const_value is not None
            heads, size = (int(n) for n in shape.const_value.numpy()[-2:])
            scores = list(nodes_of(model, layer, "attention.scores"))
            scale = next(n for n in scores if n.op_type == "Mul").inputs[1]
            bias = next(n for n in scores if n.op_type == "Add").inputs[1]
            w = Writer(model.graph)
            rows = w.op("Squeeze", bias, _ints(w, 1))
            parts = []
            for qh, kh, vh in zip(*(take(w, x, heads, size) for x in (q, k, v)), strict=True):
                product = w.op("MatMul", qh, w.op("Transpose", kh, perm=[0, 2, 1]))
                weights = w.op("Softmax", w.op("Add", w.op("Mul", product, scale), rows), axis=-1)
                parts.append(w.op("MatMul", weights, vh))
            made = w.op("Concat", *parts[::order], axis=-1)
            model.graph.insert_before(last, w.nodes)
            made.shape = last.outputs[0].shape
            last.outputs[0].replace_all_uses_with(made)
        common.RemoveUnusedNodesPass()(model)

    return change


def _by_split(w: Writer, x: ir.Value, heads: int, size: int) -> list[ir.Value]:
    sizes = w.shared(f"sizes_{heads}_{size}", np.full(heads, size, np.int64))
    node = ir.node("Split", [x, sizes], {"axis": 2}, num_outputs=heads)
    w.nodes.append(node)
    return list(node.outputs)


def _by_slice(w: Writer, x: ir.Value, heads: int, size: int) -> list[ir.Value]:
    def ends(at: int) -> ir.Value:
        return w.shared(f"at_{at}", np.array([at], np.int64))

    axis = w.shared("last_axis", np.array([-1], np.int64))
    return [w.op("Slice", x, ends(i * size), ends((i + 1) * size), axis) for i in range(heads)]


def _by_linear(w: Writer, x: ir.Value, heads: int, size: int) -> list[ir.Value]:
    linear = as_linear(x)
    assert linear is not None
    weight, bias = (
        np.split(value.const_value.numpy(), heads, axis=-1)
        for value in (linear.weight, linear.bias)
        if value.const_value is not None
    )
    return [
        w.op(
            "Add",
            w.op("MatMul", linear.x, w.const(f"{x.name}.w{i}", weight[i])),
            w.const(f"{x.name}.b{i}", bias[i]),
        )
        for i in range(heads)
    ]


def _packed(model: ir.Model) -> None:
    """One linear for query, key and value, `[B, S, 3, heads, size]`, taken apart by Gather."""
    for softmax in list(nodes_of(model, role="attention.softmax")):
        layer = softmax.metadata_props[LAYER_KEY]
        names = ("query", "key", "value")
        moves = [
            [n for n in nodes_of(model, layer, f"attention.{one}") if n.op_type in ("Reshape", "Transpose")]
            for one in names
        ]
        linears = [as_linear(reshape.inputs[0]) for reshape, _ in moves]
        shape = moves[0][0].inputs[1]
        assert shape is not None
        assert shape.const_value is not None
        heads, size = (int(n) for n in shape.const_value.numpy()[-2:])
        w = Writer(model.graph)
        sides = [
            np.concatenate([getattr(one, kind).const_value.numpy() for one in linears], axis=-1)
            for kind in ("weight", "bias")
        ]
        x = next(one.x for one in linears if one is not None)
        product = w.op("MatMul", x, w.const(f"packed_weight_{layer}", sides[0]))
        packed = w.op("Add", w.const(f"packed_bias_{layer}", sides[1]), product)
        five = w.op("Reshape", packed, _shape(w, 0, 0, 3, heads, size))
        moved = w.op("Transpose", five, perm=[2, 0, 3, 1, 4])
        for i, (_, transpose) in enumerate(moves):
            made = w.op("Gather", moved, w.const(f"part_{layer}_{i}", np.int64(i)), axis=0)
            if names[i] == "key":
                made = w.op("Transpose", made, perm=[0, 1, 3, 2])
            transpose.outputs[0].replace_all_uses_with(made)
        model.graph.insert_before(softmax, w.nodes)
    model.graph.sort()
    common.RemoveUnusedNodesPass()(model)


def _shape(w: Writer, *sizes: int) -> ir.Value:
    return w.shared(f"shape_{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))


def _one_weight(model: ir.Model) -> None:
    """Query, key and the attention's output multiply with the same matrix."""
    for softmax in nodes_of(model, role="attention.softmax"):
        layer = softmax.metadata_props[LAYER_KEY]
        products = [
            next(n for n in nodes_of(model, layer, f"attention.{one}") if n.op_type == "MatMul")
            for one in ("query", "key", "output")
        ]
        for node in products[1:]:
            node.replace_input_with(1, products[0].inputs[1])


HEADS = {
    "projections-packed": _packed,
    "projections-share-weights": _one_weight,
    "heads-by-linear": _heads(_by_linear),
    "heads-by-split": _heads(_by_split),
    "heads-by-slice": _heads(_by_slice),
}

heads_merged_backwards = _heads(_by_split, -1)

# GELU


def _gelus(make: Callable[[Writer, ir.Value], ir.Value]) -> Change:
    """`make` writes each GELU out."""

    def change(model: ir.Model) -> None:
        for node in [n for n in model.graph if n.op_type == "Gelu"]:
            w = Writer(model.graph)
            x = node.inputs[0]
            assert x is not None
            made = make(w, x)
            model.graph.insert_after(node, w.nodes)
            node.outputs[0].replace_all_uses_with(made)
            model.graph.remove(node, safe=True)

    return change


def _by_sum(w: Writer, x: ir.Value) -> ir.Value:
    e = w.op("Erf", w.op("Div", x, _number(w, "root2", 2**0.5)))
    return w.op("Mul", w.op("Mul", x, _number(w, "half", 0.5)), w.op("Sum", e, _number(w, "one", 1)))


def _by_half_first(w: Writer, x: ir.Value) -> ir.Value:
    e = w.op("Erf", w.op("Mul", x, _number(w, "rsqrt2", 0.5**0.5)))
    scaled = w.op("Mul", _number(w, "half", 0.5), w.op("Add", _number(w, "one", 1), e))
    return w.op("Mul", scaled, x)


def _by_cube(w: Writer, x: ir.Value) -> ir.Value:
    cube = w.op("Mul", w.op("Mul", x, x), x)
    inner = w.op("Sum", x, w.op("Mul", _number(w, "cubic", 0.044715), cube))
    t = w.op("Tanh", w.op("Mul", inner, _number(w, "root", (2 / np.pi) ** 0.5)))
    return w.op("Mul", x, w.op("Mul", w.op("Add", t, _number(w, "one", 1)), _number(w, "half", 0.5)))


GELUS = {
    "gelu-by-sum": _gelus(_by_sum),
    "gelu-by-half-first": _gelus(_by_half_first),
    "gelu-by-cube": _gelus(_by_cube),
}

WAYS: dict[str, Change] = {**MASKS, **NORMS, **HEADS, **GELUS}


def unlabelled(model: ir.Model) -> ir.Model:
    """A copy as an exporter writes it."""
    copy = ir.from_proto(ir.to_proto(model))
    for item in (copy, *copy.graph, *copy.graph.initializers.values()):
        item.metadata_props.clear()
    return copy


def _exporter(change: Change, name: str) -> Callable[[Path], Path]:
    def export(path: Path) -> Path:
        model, _ = import_model(path)
        change(model)
        target = path.with_name(f"{path.stem}.{name}.onnx")
        ir.save(unlabelled(model), target)
        return target

    return export


EXPORTERS = {name: _exporter(change, name) for name, change in WAYS.items()}
"""From the path of a float model to the path of the one written otherwise, beside it."""

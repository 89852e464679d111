"""LayerNorm in any other order of arithmetic becomes LayerNormalization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, write_norm
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import explanation, node_name
from bqc.ir.match import is_weight, scalar, size_of
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.ir.rewrite import between, drop_dead, sources, take_place

__all__ = ["ImportLayerNormProbe"]

_CLOSE = 1e-4
_STEPS = 12
_REDUCED = ("ReduceMean", "ReduceSumSquare")
_ARITHMETIC = frozenset(
    ("Add", "Sub", "Mul", "Div", "Neg", "Reciprocal", "Pow", "Sqrt", "Identity", *_REDUCED)
)


@dataclass(frozen=True)
class ImportLayerNormProbe(ir.passes.InPlacePass):
    """Recognise LayerNorm by its values, anchored at its root, where `import-layernorm` does not know the order.

    Before::

        f = Mul(Reciprocal(Sqrt(variance + epsilon)), gamma);  y = Add(Mul(x, f), Sub(beta, Mul(mean, f)))
        y = Mul(Sub(x, mean), Pow(Add(variance, epsilon), -0.5))        without gamma, beta or both

    After::

        y = LayerNormalization(x, gamma, beta; axis=-1, epsilon)

    What lies between x, up to two vectors and y is run on random numbers and compared. A vector that is not there
    is written as ones or zeros.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        misses = explanation(model)
        for root in [n for n in graph if _is_root(n)]:
            found = _found(root)
            if found is None or not may_rewrite(root):
                continue
            x, gamma, beta, width, epsilon, out = found
            w = Writer(graph, source=sources(between(out, [x])))
            ones = gamma or w.const("norm_ones", np.ones(width, np.float32))
            zeros = beta or w.const("norm_zeros", np.zeros(width, np.float32))
            made = write_norm(w, x, ones, zeros, epsilon)
            made.shape, made.type = out.shape, out.type or made.type
            producer = out.producer()
            assert producer is not None, "it was just computed"
            graph.insert_after(producer, w.nodes)
            take_place(out, made)
            misses.misses[:] = [
                m for m in misses.misses if (m.rule, m.node) != ("layernorm", node_name(root))
            ]
            count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _is_root(node: ir.Node) -> bool:
    return node.op_type == "Sqrt" or (node.op_type == "Pow" and scalar(node.inputs[1]) in (0.5, -0.5))


Vector = ir.Value | None
Found = tuple[ir.Value, Vector, Vector, int, float, ir.Value]


def _found(root: ir.Node) -> Found | None:
    inside = root.inputs[0].producer() if root.inputs[0] is not None else None
    epsilons = [] if inside is None or inside.op_type != "Add" else [scalar(v) for v in inside.inputs]
    epsilon = next((e for e in epsilons if e is not None and 0 <= e < 0.1), None)
    if epsilon is None:
        return None
    for x in _means(root):
        ends = [(out, _vectors(out, x)) for out in _results(root.outputs[0])]
        for count in (2, 1, 0):
            for out, vectors in ends:
                if vectors is None or len(vectors) != count:
                    continue
                width = size_of(vectors[0], 0) if vectors else _width(x)
                both: tuple[Vector, ...] = (*vectors, *[None] * (2 - count))
                for gamma, beta in (both, both[::-1]):
                    if width is not None and _is_norm(x, gamma, beta, width, epsilon, out):
                        return x, gamma, beta, width, epsilon, out
    return None


def _width(x: ir.Value) -> int | None:
    last = None if x.shape is None or not len(x.shape) else x.shape[-1]
    return last if isinstance(last, int) else None


def _means(root: ir.Node) -> Iterator[ir.Value]:
    """What means are taken of, behind the root."""
    queue, seen = list(root.inputs), 0
    while queue and seen < _STEPS:
        value = queue.pop(0)
        node = value.producer() if value is not None else None
        if node is None or node.op_type not in _ARITHMETIC:
            continue
        seen += 1
        if node.op_type == "ReduceMean" and node.inputs[0] is not None:
            yield node.inputs[0]
        queue.extend(node.inputs[:1] if node.op_type in _REDUCED else node.inputs)


def _results(value: ir.Value) -> Iterator[ir.Value]:
    """What arithmetic makes of the root, nearest first."""
    queue, seen = [value], set[ir.Value]()
    while queue and len(seen) < _STEPS:
        here = queue.pop(0)
        for use in here.consumers():
            out = use.outputs[0]
            if use.op_type in _ARITHMETIC and out not in seen:
                seen.add(out)
                queue.append(out)
                yield out


def _vectors(out: ir.Value, x: ir.Value) -> list[ir.Value] | None:
    """The constant vectors that `out` is computed of beside `x`; None if it is computed of anything else."""
    found: list[ir.Value] = []
    queue, seen = [out], set[ir.Value]()
    while queue:
        value = queue.pop()
        if value is x or value in seen or scalar(value) is not None:
            continue
        seen.add(value)
        node = value.producer()
        if is_weight(value, 1):
            found.append(value)
        elif node is not None and node.op_type in _ARITHMETIC and len(seen) < 4 * _STEPS:
            queue.extend(v for v in (node.inputs[:1] if node.op_type in _REDUCED else node.inputs) if v)
        else:
            return None
    return found


def _is_norm(x: ir.Value, gamma: Vector, beta: Vector, width: int, epsilon: float, out: ir.Value) -> bool:
    vectors = [v for v in (gamma, beta) if v is not None]
    if any(size_of(v, 0) != width for v in vectors):
        return False
    rng = np.random.default_rng(0)
    a, g, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, width), width, width))
    probe = None
    # Of small numbers the norm tells where epsilon is added.
    for size in {1.0, epsilon**0.5 or 1.0}:
        small = a * np.float32(size)
        feeds = {v: array for v, array in ((x, small), (gamma, g), (beta, b)) if v is not None}
        try:
            probe = probe or Probe([out], [x, *vectors])
            (found,) = probe.run(feeds, Sizes(2, 3))
        except ProbeError:
            return False
        wide = small.astype(np.float64)
        normed = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + epsilon)
        wanted = normed * (1 if gamma is None else g) + (0 if beta is None else b)
        if found.shape != a.shape or not np.allclose(found, wanted, atol=_CLOSE):
            return False
    return True

"""GELU written with Erf or Tanh becomes Gelu."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, dims
from bqc.ir.counting import may_rewrite
from bqc.ir.explain import explanation
from bqc.ir.match import only_consumer, scalar
from bqc.ir.rewrite import between, drop_dead, sources, take_place

__all__ = ["ImportGelu"]

Array = npt.NDArray[np.float64]

_POINTS = np.linspace(-4.0, 4.0, 33)
_TOLERANCE = 2e-5
_GROWTH = 8

_erf = np.vectorize(math.erf)
_GELU: dict[Literal["none", "tanh"], Array] = {
    "none": _POINTS * 0.5 * (1 + _erf(_POINTS / math.sqrt(2))),
    "tanh": _POINTS * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (_POINTS + 0.044715 * _POINTS**3))),
}
_OPS: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Erf": _erf,
    "Tanh": np.tanh,
}


@dataclass(frozen=True)
class ImportGelu(ir.passes.InPlacePass):
    """Recognise GELU by its values, in whatever order its factors are multiplied.

    Before::

        Mul(Mul(x, 0.5), Add(Erf(Div(x, 1.4142)), 1))     or any other order, or the Tanh form
        Mul(0.5, Mul(x, Add(1, Tanh(Mul(0.7979, Add(x, Mul(0.044715, Pow(x, 3))))))))

    After::

        Gelu(x; approximate="none" | "tanh")

    Around every Erf and Tanh the elementwise functions of one value are tabulated at 33 points and compared
    with both GELUs; a pattern per operand order would need dozens and still miss the next exporter.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        misses = explanation(model)
        for anchor in [n for n in model.graph if n.op_type in ("Erf", "Tanh")]:
            x = _argument(anchor)
            if x is None:
                misses.add("gelu", anchor, "its argument is not a function of one value")
                continue
            found, nearest = _grow(anchor, x)
            if found is None:
                if nearest is not None:
                    misses.add("gelu", anchor, nearest, 2)
                continue
            if not may_rewrite(anchor):
                continue
            out, approximate = found
            w = Writer(model.graph, source=sources(between(out, [x])))
            made = w.op(
                "Gelu", x, shape=dims(out), dtype=out.dtype or ir.DataType.FLOAT, approximate=approximate
            )
            producer = out.producer()
            assert producer is not None, "the function ends in a node"
            model.graph.insert_after(producer, w.nodes)
            take_place(out, made)
            count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _argument(anchor: ir.Node) -> ir.Value | None:
    """The one value that the anchor's argument is an elementwise function of."""
    leaves: set[ir.Value] = set()
    queue = [v for v in anchor.inputs if v is not None]
    while queue:
        value = queue.pop()
        node = value.producer()
        if scalar(value) is not None:
            continue
        if node is None or not _elementwise(node):
            leaves.add(value)
        else:
            queue.extend(v for v in node.inputs if v is not None)
    return leaves.pop() if len(leaves) == 1 else None


def _elementwise(node: ir.Node) -> bool:
    """Is it arithmetic between computed values and numbers (and no vector such as a bias)?"""
    vectors = (v for v in node.inputs if v is not None and v.const_value is not None)
    return node.op_type in _OPS and all(scalar(v) is not None for v in vectors)


Found = tuple[ir.Value, Literal["none", "tanh"]]


def _grow(anchor: ir.Node, x: ir.Value) -> tuple[Found | None, str | None]:
    value, nearest = anchor.outputs[0], None
    for _ in range(_GROWTH):
        consumer = only_consumer(value)
        if consumer is None or not _elementwise(consumer):
            break
        value = consumer.outputs[0]
        table = _tabulate(value, x)
        if table is None:
            break
        for approximate, wanted in _GELU.items():
            gap = np.abs(table - wanted)
            if gap.max() <= _TOLERANCE:
                return (value, approximate), None
        closest = min(_GELU, key=lambda k: float(np.abs(table - _GELU[k]).max()))
        at = int(np.abs(table - _GELU[closest]).argmax())
        nearest = (
            f"the function around it is not GELU: it gives {table[at]:.5g} at {_POINTS[at]:g}, "
            f"where GELU gives {_GELU[closest][at]:.5g}"
        )
    return None, nearest


def _tabulate(value: ir.Value, x: ir.Value) -> Array | None:
    if value is x:
        return _POINTS
    number = scalar(value)
    if number is not None:
        return np.full_like(_POINTS, number)
    node = value.producer()
    if node is None or not _elementwise(node):
        return None
    operands = [_tabulate(v, x) for v in node.inputs if v is not None]
    if any(o is None for o in operands):
        return None
    with np.errstate(all="ignore"):
        return np.asarray(_OPS[node.op_type](*operands), np.float64)

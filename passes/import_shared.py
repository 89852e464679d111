"""Matrices that are stored more than once become one initializer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.counting import may_rewrite
from bqc.ir.match import is_weight
from bqc.ir.rewrite import drop_dead

__all__ = ["ImportShared"]

Array = npt.NDArray[Any]

_SAMPLES = 64


@dataclass(frozen=True)
class ImportShared(ir.passes.InPlacePass):
    """Find the weights that layers share, also where the exporter wrote a copy for each layer.

    Before: `MatMul(x, w1)`, `MatMul(y, w2)` with equal matrices w1 and w2
    After: `MatMul(x, w1)`, `MatMul(y, w1)`

    Matrices of one type and shape are compared at a few elements first, so that unequal ones are hardly read. Those of
    one number, zeros say, are equal without being shared.
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        for same in _groups(graph):
            kept: list[ir.Value] = []
            for value in same:
                twin = next((v for v in kept if _equal(v, value)), None)
                if twin is None:
                    kept.append(value)
                    continue
                if not may_rewrite(value):
                    continue
                value.replace_all_uses_with(twin)
                count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _groups(graph: ir.Graph) -> Iterator[list[ir.Value]]:
    """Matrices that may be equal."""
    found: dict[object, list[ir.Value]] = defaultdict(list)
    for value in graph.initializers.values():
        if is_weight(value, 2) and not value.is_graph_output() and value.const_value is not None:
            tensor = value.const_value
            found[(tensor.dtype, tuple(tensor.shape.numpy()))].append(value)
    for alike in found.values():
        if len(alike) < 2 or not alike[0].const_value or not alike[0].const_value.size:
            continue
        sampled: dict[bytes, list[ir.Value]] = defaultdict(list)
        for value in alike:
            sampled[_sample(value)].append(value)
        yield from (same for same in sampled.values() if len(same) > 1 and not _is_filled(same[0]))


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None, "matrices are initializers"
    return np.asarray(value.const_value.numpy())


def _sample(value: ir.Value) -> bytes:
    array = _array(value)
    rows, columns = array.shape
    steps = np.arange(_SAMPLES)
    return bytes(array[steps * 7919 % rows, steps * 104729 % columns].tobytes())


def _is_filled(value: ir.Value) -> bool:
    array = _array(value)
    return bool((array == array[0, 0]).all())


def _equal(one: ir.Value, other: ir.Value) -> bool:
    return _array(one).tobytes() == _array(other).tobytes()

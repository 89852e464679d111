"""Taking the first token becomes Gather(h, 0, axis=1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.match import as_linear, constant, walk_back
from bqc.ir.probe import Probe, ProbeError, Sizes
from bqc.ir.rewrite import between, drop_dead, sources, take_place

__all__ = ["ImportHead"]

_PROBE_WIDTH = 6


@dataclass(frozen=True)
class ImportHead(ir.passes.InPlacePass):
    """Recognise the first token under a head.

    Before: `Squeeze(Slice(h, [0], [1], [1]), [1])`, `Reshape(Slice(...))`, `Squeeze(Gather(h, [0]; axis=1))`
    After: `Gather(h, 0; axis=1)` with a rank-0 index, `[B, S, H] -> [B, H]`
    """

    contract = Contract("exact")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        for node in list(graph):
            linear = as_linear(node.outputs[0]) if node.op_type == "Add" else None
            if linear is None or _is_first_token(linear.x):
                continue
            found = walk_back(linear.x, _is_norm, limit=8)
            if len(found) != 1 or found[0] is linear.x or not _takes_first(found[0], linear.x):
                continue
            if not may_rewrite(node):
                continue
            old = linear.x
            w = Writer(graph, source=sources(between(old, found)))
            made = w.op("Gather", found[0], w.shared("first_token", np.int64(0)), axis=1)
            made.shape, made.dtype = old.shape, old.dtype or ir.DataType.FLOAT
            producer = old.producer()
            assert producer is not None, "the input of this linear is computed"
            graph.insert_after(producer, w.nodes)
            take_place(old, made)
            count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _is_norm(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "LayerNormalization"


def _is_first_token(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
        return False
    index = constant(node.inputs[1])
    return index is not None and index.ndim == 0 and int(index) == 0


def _takes_first(hidden: ir.Value, out: ir.Value) -> bool:
    try:
        probe = Probe([out], [hidden])
        for batch, sequence in ((2, 3), (1, 4)):
            # Large, so that a bound is reached.
            h = np.random.default_rng(0).normal(0, 1e6, (batch, sequence, _PROBE_WIDTH)).astype(np.float32)
            (found,) = probe.run({hidden: h}, Sizes(batch, sequence))
            if found.shape != (batch, _PROBE_WIDTH) or not np.array_equal(found, h[:, 0]):
                return False
    except ProbeError:
        return False
    return True

"""What is added to or subtracted from a product becomes a bias, a vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.build import Writer, dims
from bqc.ir.counting import may_rewrite
from bqc.ir.match import constant, is_weight, only_consumer, rank, size_of
from bqc.ir.rewrite import drop_dead, sources, take_place

__all__ = ["ImportBias"]


@dataclass(frozen=True)
class ImportBias(ir.passes.InPlacePass):
    """One form for the biases of linears.

    Before::

        Add(MatMul(x, W), b[1, 1, N])            leading axes
        Add(MatMul(x, W), b[1])                  one number for all columns
        Sub(MatMul(x, W), b[N])                  subtracted
        Add(Add(MatMul(x, W), a[N]), c[N])       two of them: b = a + c

    After::

        Add(MatMul(x, W), b[N])
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, count = model.graph, 0
        for node in [n for n in graph if n.op_type == "MatMul" and is_weight(n.inputs[1], 2)]:
            product = node.outputs[0]
            use = only_consumer(product)
            if use is None or use.op_type not in ("Add", "Sub"):
                continue
            bias = _vector(use, product, size_of(node.inputs[1], 1))
            if bias is None or not may_rewrite(use):
                continue
            w = Writer(graph, source=sources([use]))
            out = use.outputs[0]
            name = next(v.name for v in use.inputs if v is not None and v is not product)
            made = w.op("Add", product, w.const(f"{name}.vector", bias), shape=dims(out))
            graph.insert_after(use, w.nodes)
            take_place(out, made)
            graph.remove(use, safe=True)
            count += 1
        for node in [n for n in graph if n.op_type == "MatMul" and is_weight(n.inputs[1], 2)]:
            while _joined(graph, node.outputs[0], size_of(node.inputs[1], 1)):
                count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _joined(graph: ir.Graph, product: ir.Value, width: int) -> bool:
    """Make one bias of the first two that are added in a row, where there are two."""
    first = only_consumer(product)
    second = None if first is None else only_consumer(first.outputs[0])
    biases = []
    for add, value in ((first, product), (second, None if first is None else first.outputs[0])):
        other = None if add is None else next((v for v in add.inputs if v is not value), None)
        data = constant(other)
        if add is None or add.op_type != "Add" or other is None or data is None or data.dtype != np.float32:
            return False
        if data.size not in (1, width) or data.ndim > 1:
            return False
        biases.append((other.name, data))
    assert first is not None
    assert second is not None, "both are there"
    if not may_rewrite(second):
        return False
    w = Writer(graph, source=sources([first, second]))
    out = second.outputs[0]
    total = sum((np.asarray(data, np.float32) for _, data in biases), np.zeros(width, np.float32))
    made = w.op("Add", product, w.const(f"{biases[0][0]}.sum", total), shape=dims(out))
    graph.insert_after(second, w.nodes)
    take_place(out, made)
    graph.remove([second, first], safe=True)
    return True


def _vector(node: ir.Node, product: ir.Value, width: int) -> npt.NDArray[np.float32] | None:
    """The bias, where it is not one in the right form already and adding it gives the product's shape."""
    if node.op_type == "Sub" and node.inputs[0] is not product:
        return None
    other = next((v for v in node.inputs if v is not product), None)
    data, axes = constant(other), rank(product)
    if data is None or data.dtype != np.float32 or axes is None or data.ndim > axes:
        return None
    if data.size not in (1, width) or (data.size > 1 and data.shape[-1] != width):
        return None
    if node.op_type == "Add" and data.shape == (width,):
        return None
    sign = np.float32(-1 if node.op_type == "Sub" else 1)
    return np.full(width, sign * data.reshape(-1), np.float32)

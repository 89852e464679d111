"""Weights that are stored in another type or layout look like plain float32 initializers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.ir.counting import may_rewrite
from bqc.ir.match import STORED, is_weight, rank, size_of, stored_dtype

__all__ = ["ImportWeights", "free_name", "lazily"]


@dataclass(frozen=True)
class ImportWeights(ir.passes.InPlacePass):
    """Absorb Cast, Transpose, Reshape and Identity of an initializer into the initializer.

    Before: `MatMul(x, Transpose(Cast(w[fp16, N x K]; to=FLOAT); perm=[1, 0]))`
    After: `MatMul(x, w[fp32, K x N])`

    So does a matrix of three axes, `MatMul(x[B, S, K], w[1, K, N])`; with an `x` of two the result would lose an axis.

    Nothing is computed here: the new initializer reads the stored one when somebody asks for its values.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        shared: dict[tuple[ir.Value, str], ir.Value] = {}
        for node in list(model.graph):
            if node.domain not in ("", "ai.onnx") or not node.inputs:
                continue
            if node.op_type == "MatMul":
                modified |= _matrix(model.graph, node, shared)
                continue
            source, out = node.inputs[0], node.outputs[0]
            if source is None or not is_weight(source) or out.is_graph_output():
                continue
            how = (
                source,
                f"{node.op_type} {sorted((a.name, str(a.value)) for a in node.attributes.values())}",
            )
            made = shared.get(how) or _absorbed(node, source)
            if made is None or not may_rewrite(node):
                continue
            graph = model.graph
            out.replace_all_uses_with(made)
            graph.remove(node, safe=True)
            stored = source.name or "weight"
            if not source.uses() and not source.is_graph_output():
                del graph.initializers[stored]
            modified = True
            if how not in shared:
                shared[how] = made
                made.name = free_name(graph, stored.removesuffix(".fp16"))
                graph.register_initializer(made)
        return ir.passes.PassResult(model, modified)


def _matrix(graph: ir.Graph, node: ir.Node, shared: dict[tuple[ir.Value, str], ir.Value]) -> bool:
    """Read `w[1, K, N]` as `w[K, N]`."""
    x, weight = node.inputs
    if x is None or weight is None or not is_weight(weight, 3) or is_weight(x) or (rank(x) or 0) < 3:
        return False
    if size_of(weight, 0) != 1 or weight.is_graph_output() or not may_rewrite(node):
        return False
    sizes = [size_of(weight, 1), size_of(weight, 2)]
    made = shared.get((weight, "matrix"))
    if made is None:
        made = lazily(weight, weight.dtype or ir.DataType.FLOAT, sizes, lambda a: a[0])
        made.name = free_name(graph, f"{weight.name}.matrix")
        graph.register_initializer(made)
        shared[weight, "matrix"] = made
    node.replace_input_with(1, made)
    if not weight.uses():
        del graph.initializers[weight.name or ""]
    return True


def lazily(
    source: ir.Value,
    dtype: ir.DataType,
    shape: list[int],
    change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
) -> ir.Value:
    """A new unregistered initializer whose tensor is `change(source)`, computed on first use."""
    tensor = source.const_value
    assert tensor is not None, "lazily wants an initializer"

    def compute() -> ir.TensorProtocol:
        return ir.Tensor(np.asarray(change(np.asarray(tensor.numpy())), order="C"), dtype=dtype)

    lazy = ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(shape), name=source.name, cache=True)
    made = ir.Value(name=source.name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=lazy)
    made.meta[STORED] = stored_dtype(source)
    return made


def _absorbed(node: ir.Node, source: ir.Value) -> ir.Value | None:
    tensor = source.const_value
    assert tensor is not None, "only called for initializers"
    sizes = [int(n) for n in tensor.shape.numpy()]
    if node.op_type == "Identity":
        return lazily(source, tensor.dtype, sizes, lambda a: a)
    if node.op_type == "Cast":
        floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
        if node.attributes["to"].as_int() != ir.DataType.FLOAT or tensor.dtype not in floats:
            return None
        return lazily(source, ir.DataType.FLOAT, sizes, lambda a: a.astype(np.float32))
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm", None) or reversed(range(len(sizes))))
        if sorted(perm) != list(range(len(sizes))):
            return None
        return lazily(source, tensor.dtype, [sizes[i] for i in perm], lambda a: a.transpose(perm))
    return None


def free_name(graph: ir.Graph, name: str) -> str:
    """The name, or the first of ``name.1``, ``name.2``, ... that no initializer has."""
    unique, n = name, 0
    while unique in graph.initializers:
        n += 1
        unique = f"{name}.{n}"
    return unique

"""Graphs in float16, bfloat16 or float64 are computed in float32; inputs and outputs keep their types."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from bqc.contract import Contract
from bqc.ir.inference import infer_shapes
from bqc.ir.notes import note
from bqc.passes._contrib import CONTRIB
from bqc.passes.import_weights import lazily

__all__ = ["ImportPrecision"]

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_DOUBLE = ir.DataType.DOUBLE
_OTHER = (*_HALF, _DOUBLE)
_FLOAT = ir.DataType.FLOAT
_KEEP_TYPE = frozenset(("MatMul", "Add", "Sub", "Mul", "Div", "Reshape", "Transpose", "LayerNormalization"))
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class ImportPrecision(ir.passes.InPlacePass):
    """Give every value of another precision inside the graph the type float32.

    Before: `x16 = Cast(x; to=FLOAT16)`, `y16 = MatMul(x16, w[fp16])`, output `y16`
    After: `x32 = Cast(x; to=FLOAT)`, `y = MatMul(x32, w[fp32])`, output `Cast(y; to=FLOAT16)`

    1. Weights are read as float32 when they are needed; one that is only cast to float32 is left to
       `import-weights`. Single numbers lose their rounding: 1.414 is sqrt(2) again.
       Numbers beyond float32, as masks add them in float64, are its largest.
    2. Casts to other precisions become casts to float32 (`import-fold` drops those that change nothing).
    3. Graph inputs of other precisions are cast after they come in, outputs before they go out.

    Exporters of half precision write parts of a LayerNorm in float64. Results differ from those of the graph as it was
    by what half precision rounds away, or float32.
    """

    contract = Contract("lossy", cosine_min=0.99)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        others = {dtype for value in _values(graph) if (dtype := _dtype(value)) in _OTHER}
        if not others:
            return ir.passes.PassResult(model, False)
        half = not others.isdisjoint(_HALF)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        outputs = [(value, value.dtype) for value in graph.outputs if _is_other(value)]
        changed = sum(
            _weight(graph, value) for value in list(graph.initializers.values()) if _is_other(value)
        )
        for value in [v for v in graph.inputs if _is_other(v)]:
            _input(graph, value)
            changed += 1
        for node in ir.traversal.RecursiveGraphIterator(graph):
            changed += _node(node)
        for value, dtype in outputs:
            _output(graph, value, dtype or _FLOAT)
        if changed:
            _learn_types(model)
            what = "half precision" if half else "float64"
            note(model, f"{what} is computed in float32; inputs and outputs keep their types")
        return ir.passes.PassResult(model, changed > 0)


def _dtype(value: ir.Value) -> ir.DataType | None:
    return value.dtype if value.const_value is None else value.const_value.dtype


def _is_other(value: ir.Value) -> bool:
    return _dtype(value) in _OTHER


def _learn_types(model: ir.Model) -> None:
    """So that `import-fold` sees which casts change nothing; what ONNX Runtime's operators make is not inferred."""
    untyped = [node for node in model.graph if node.outputs[0].dtype is None]
    if not untyped or (infer_shapes(model) and all(node.outputs[0].dtype is not None for node in untyped)):
        return
    for node in model.graph:
        out, x = node.outputs[0], node.inputs[0] if node.inputs else None
        known = x is not None and x.dtype == _FLOAT
        if out.dtype is None and known and (node.domain == CONTRIB or node.op_type in _KEEP_TYPE):
            out.type = ir.TensorType(_FLOAT)


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.outputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
        # Types inside are often not stated, but a cast to them is always there or in the weights.
        if node.op_type == "Cast" and node.attributes["to"].as_int() in _OTHER:
            yield ir.Value(type=ir.TensorType(ir.DataType(node.attributes["to"].as_int())))


def _weight(graph: ir.Graph, value: ir.Value) -> bool:
    uses = value.consumers()
    if uses and all(u.op_type == "Cast" and u.attributes["to"].as_int() == _FLOAT for u in uses):
        return False
    tensor = value.const_value
    if tensor is None or value.is_graph_output():
        return False
    sizes = [int(n) for n in tensor.shape.numpy()]
    made = lazily(value, _FLOAT, sizes, _read)
    value.replace_all_uses_with(made)
    made.name = value.name
    del graph.initializers[value.name or ""]
    graph.register_initializer(made)
    return True


def _input(graph: ir.Graph, value: ir.Value) -> None:
    cast = ir.node("Cast", [value], attributes={"to": int(_FLOAT)})
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(_FLOAT), value.shape
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    if len(graph):
        graph.insert_before(graph[0], cast)
    else:
        graph.append(cast)


def _node(node: ir.Node) -> int:
    changed = 0
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        kind = attribute.type
        if kind == ir.AttributeType.INT and name in ("to", "dtype") and attribute.as_int() in _OTHER:
            node.attributes[name] = ir.AttrInt64(name, int(_FLOAT))
            changed += 1
        elif kind == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _OTHER:
            wide = ir.tensor(_float32(attribute.as_tensor().numpy()))
            node.attributes[name] = ir.AttrTensor(name, wide)
            changed += 1
    for out in node.outputs:
        if out.dtype in _OTHER:
            out.type = ir.TensorType(_FLOAT)
            changed += 1
    return changed


def _output(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    """Only what leaves the graph is cast: nodes that read the value too go on in float32."""
    producer = value.producer()
    if producer is None:
        return
    cast = ir.node("Cast", [value], attributes={"to": int(dtype)})
    made = cast.outputs[0]
    made.type, made.shape = ir.TensorType(dtype), value.shape
    graph.insert_after(producer, cast)
    for place, out in enumerate(graph.outputs):
        if out is value:
            graph.outputs[place] = made
    made.name, value.name = value.name, f"{value.name}.float32"


_NUMBERS = [math.sqrt(2 / math.pi), 0.044715, *(n**power for n in range(2, 257) for power in (0.5, -0.5))]


def _read(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """In float32; a single number that is the rounding of one that encoders are made of is that number."""
    wide = _float32(stored)
    if stored.size == 1:
        for number in _NUMBERS:
            if np.asarray(number).astype(stored.dtype) == stored.reshape(()):
                return np.full_like(wide, number)
    return wide


def _float32(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        wide = stored.astype(np.float32)
    beyond = np.isinf(wide) & ~np.isinf(stored)
    return np.where(beyond, np.copysign(np.float32(_LARGEST), wide), wide)

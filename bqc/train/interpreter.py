"""A compiled graph in torch, node by node through the function bodies: the bits that the kernels give.

Bodies are made of primitives whose every bit is defined (`bqc.ops.bodies`), and each is one torch call here, so that
nothing is fused or summed in another order: torch, ONNX Runtime and the kernels give the same bits. Only what a graph
keeps in float agrees with ONNX Runtime up to rounding. There are no gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from bqc.errors import BqcError
from bqc.train.operators import OPERATORS, Operator

__all__ = ["Interpreter"]


@dataclass
class _Frame:
    """Values and attributes of one call of a function, or of the graph."""

    values: dict[ir.Value, Tensor] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


class Interpreter:
    """A model with its functions, as a function of tensors by input name. Its constants lie on one device."""

    def __init__(self, model: ir.Model, device: torch.device) -> None:
        self._graph, self._functions, self._device = model.graph, model.functions, device
        self._constants: dict[ir.Value, Tensor] = {}

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name.

        Raises:
            BqcError: an operator that has no body and is not in the tables.
            KeyError: an input is missing.
        """
        frame = _Frame({value: feeds[value.name or ""] for value in self._graph.inputs})
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            results = self._results(self._graph, self._graph.outputs, frame)
        return {value.name or "": result for value, result in zip(self._graph.outputs, results, strict=True)}

    def _results(self, nodes: Iterable[ir.Node], outputs: Sequence[ir.Value], frame: _Frame) -> list[Tensor]:
        for node in nodes:
            results = self._node(node, frame)
            frame.values.update(zip(node.outputs, results, strict=False))
        return [self._value(value, frame) for value in outputs]

    def _node(self, node: ir.Node, frame: _Frame) -> Sequence[Tensor]:
        attributes = {
            name: frame.attributes[attribute.ref_attr_name or ""] if attribute.is_ref() else attribute.value
            for name, attribute in node.attributes.items()
        }
        if node.op_type == "Constant":
            return (self._constant(*attributes.popitem()),)
        inputs = [None if value is None else self._value(value, frame) for value in node.inputs]
        function = self._functions.get(node.op_identifier())
        if function is not None:
            return self._call(function, inputs, attributes)
        if node.op_type == "If":
            branch = attributes["then_branch" if inputs[0] else "else_branch"]
            return self._results(branch, branch.outputs, frame)
        if node.op_type == "Loop":
            return self._loop(attributes["body"], inputs, frame)
        return self._primitive(node, inputs, attributes)

    def _call(
        self, function: ir.Function, inputs: Sequence[Tensor | None], attributes: dict[str, Any]
    ) -> list[Tensor]:
        defaults = {name: attribute.value for name, attribute in function.attributes.items()}
        given = {value: x for value, x in zip(function.inputs, inputs, strict=False) if x is not None}
        return self._results(function, function.outputs, _Frame(given, defaults | attributes))

    def _loop(self, body: ir.Graph, inputs: Sequence[Tensor | None], frame: _Frame) -> list[Tensor]:
        limit, going, *states = inputs
        going = torch.tensor(True) if going is None else going
        count = 0
        while going and (limit is None or count < limit):
            passed = (torch.tensor(count, device=self._device), going, *states)
            frame.values.update(zip(body.inputs, passed, strict=True))
            going, *states = self._results(body, body.outputs, frame)
            count += 1
        return states

    def _primitive(
        self, node: ir.Node, inputs: Sequence[Tensor | None], attributes: dict[str, Any]
    ) -> Sequence[Tensor]:
        known = _BODIES.get(node.op_type) if not node.domain else None
        known = known or OPERATORS.get((node.domain, node.op_type))
        if known is None:
            raise BqcError(f"node {node.name} is a {node.op_type}, which torch cannot run here")
        arguments = [
            _number(x) if x is not None and position in known.static else x
            for position, x in enumerate(inputs)
        ]
        named = {name: _plain(value) for name, value in attributes.items()}
        if known.makes:
            named["device"] = self._device
        result = known.function(*arguments, **named)
        return result if isinstance(result, tuple) else (result,)

    def _value(self, value: ir.Value, frame: _Frame) -> Tensor:
        if value in frame.values:
            return frame.values[value]
        if value not in self._constants:
            assert value.const_value is not None, f"{value.name} is made by nothing"
            self._constants[value] = self._constant("value", value.const_value)
        return self._constants[value]

    def _constant(self, kind: str, value: Any) -> Tensor:
        data = value.numpy() if kind == "value" else np.array(value, _KINDS[kind])
        return torch.from_numpy(np.array(data)).to(self._device)


_KINDS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}


def _number(x: Tensor) -> Any:
    return tuple(x.tolist()) if x.dim() else x.item()


def _plain(value: Any) -> Any:
    return value.numpy().item() if isinstance(value, ir.TensorProtocol) else value


# What bodies use and training does not: these have no gradient.


def _bit_shift(x: Tensor, by: Tensor, *, direction: str) -> Tensor:
    return torch.bitwise_left_shift(x, by) if direction == "LEFT" else torch.bitwise_right_shift(x, by)


def _compress(x: Tensor, keep: Tensor, *, axis: int) -> Tensor:
    return torch.index_select(x, axis, keep.nonzero().flatten())


def _matmul_integer(a: Tensor, b: Tensor, a_zero: Tensor, b_zero: Tensor) -> Tensor:
    # Integers of 8 bits, multiplied in floating point: exact in any order while no sum outgrows the significand.
    exact = torch.float32 if a.shape[-1] * 255**2 <= 2**24 else torch.float64
    return torch.matmul(a.to(exact) - a_zero.to(exact), b.to(exact) - b_zero.to(exact)).to(torch.int32)


def _pad(x: Tensor, pads: Sequence[int], value: float = 0, axes: Sequence[int] | None = None) -> Tensor:
    axes = range(x.dim()) if axes is None else axes
    around = [0] * (2 * x.dim())
    for i, axis in enumerate(axes):
        last = 2 * (x.dim() - 1 - axis % x.dim())
        around[last : last + 2] = pads[i], pads[len(axes) + i]
    return functional.pad(x, around, value=value)


def _scatter(x: Tensor, index: Tensor, updates: Tensor, *, axis: int) -> Tensor:
    return torch.scatter(x, axis, index, updates)


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


_BODIES = {
    "BitShift": Operator(_bit_shift),
    "BitwiseAnd": Operator(torch.bitwise_and),
    "BitwiseOr": Operator(torch.bitwise_or),
    "CastLike": Operator(lambda x, like: x.to(like.dtype)),
    "Compress": Operator(_compress),
    "Floor": Operator(torch.floor),
    "IsNaN": Operator(torch.isnan),
    "MatMulInteger": Operator(_matmul_integer),
    "Mod": Operator(torch.remainder),
    "Pad": Operator(_pad, static=(1, 2, 3)),
    "Round": Operator(torch.round),
    "ScatterElements": Operator(_scatter),
    "Shape": Operator(_shape),
    "Size": Operator(lambda x: torch.tensor(x.numel(), device=x.device)),
}

"""The parts of a model that are quantised one at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.formats import BlockShift
from bqc.formats.stored import WeightFormat
from bqc.ir.anatomy import LINEAR_ROLES, TABLE_ROLES, role
from bqc.passes._graph import key_of
from bqc.passes._weights import weight_inputs
from bqc.passes.plan_bbct import PlanBbct
from bqc.plan import Plan

__all__ = [
    "ACTIVATION",
    "WEIGHT",
    "Part",
    "activation_format",
    "activation_parts",
    "fake_quantize",
    "weight_parts",
]

WEIGHT, ACTIVATION = "weight", "activation"

_FIXED = ":attention.softmax"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """A weight, or a quantisation point, addressed by layer and role.

    Attributes:
        kind: ``weight`` or ``activation``.
        key: ``layer:role``.
        also: other keys of a weight that several layers share.
        initializer: the weight's ONNX name.
        axis: the reduction axis of the weight, along which blocks run.
    """

    kind: str
    key: str
    also: tuple[str, ...] = ()
    initializer: str = ""
    axis: int = 0

    @property
    def layer(self) -> str:
        """``embedding``, ``0``, ``1``, ..., ``head``."""
        return self.key.split(":")[0]

    @property
    def role(self) -> str:
        """What it does in its layer."""
        return self.key.split(":")[1]


def weight_parts(model: ir.Model) -> list[Part]:
    """Every linear and lookup table of an annotated float model, in graph order; a shared weight once."""
    found: dict[ir.Value, tuple[list[str], int]] = {}
    for node, weight, axis in weight_inputs(model):
        if role(node) in LINEAR_ROLES + TABLE_ROLES:
            found.setdefault(weight, ([], axis))[0].append(key_of(node))
    return [
        Part(WEIGHT, keys[0], tuple(keys[1:]), weight.name or "", axis)
        for weight, (keys, axis) in found.items()
    ]


def activation_parts(model: ir.Model) -> list[Part]:
    """The quantisation points of scheme ``bbct`` in an annotated float model, in graph order.

    Softmax has codes of 8 bits whatever the format, and is none of them.
    """
    return [Part(ACTIVATION, key) for key in _points(model, BlockShift()) if not key.endswith(_FIXED)]


def activation_format(model: ir.Model, part: Part, fmt: BlockShift) -> BlockShift:
    """``fmt`` as the scheme uses it at a point: per head inside attention."""
    return _points(model, fmt)[part.key]


def fake_quantize(data: npt.NDArray[np.generic], axis: int, fmt: WeightFormat) -> Floats:
    """A weight after quantising and dequantising it along ``axis``; float32, same shape."""
    matrix = np.ascontiguousarray(data.T if axis == 0 else data)
    rounded = fmt.restore(fmt.quantized(matrix), (matrix.shape[0], matrix.shape[1]))
    return np.ascontiguousarray(rounded.T if axis == 0 else rounded)


def _points(model: ir.Model, fmt: BlockShift) -> dict[str, BlockShift]:
    before = dict(model.metadata_props)
    PlanBbct(activation_bits=fmt.bits, block=fmt.block)(model)
    points = {key: own for key, own in Plan.of(model).activations.items() if isinstance(own, BlockShift)}
    model.metadata_props.clear()
    model.metadata_props.update(before)
    return points

"""One call of an operator, a one-node model to run it in, and the sizes that calls are made for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from bqc.ops.functions import functions_for
from bqc.ops.registry import DOMAIN, OPERATORS

__all__ = [
    "Array",
    "Case",
    "Sizes",
    "draw_floats",
    "expected",
    "feeds",
    "model",
    "same_bits",
    "with_special",
]

Array = NDArray[Any]


@dataclass
class Case:
    """One call: operator, inputs by position, attributes; ``constants`` are the inputs that are initializers."""

    op: str
    inputs: list[Array]
    attributes: dict[str, Any]
    constants: tuple[int, ...] = ()
    label: str = ""
    layout: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"


def expected(case: Case) -> list[Array]:
    """What the numpy reference says."""
    result = OPERATORS[case.op].reference(*case.inputs, **case.attributes)
    return list(result) if isinstance(result, tuple) else [result]


def model(case: Case, *, functions: bool = True) -> onnx.ModelProto:
    """A one-node model; inputs are x0, x1, ... but for the constants."""
    names = [f"x{i}" for i in range(len(case.inputs))]
    outputs = [f"y{i}" for i in range(len(expected(case)))]
    attributes = {
        k: float(v) if k in ("epsilon", "scale", "minimum") else v for k, v in case.attributes.items()
    }
    node = helper.make_node(
        case.op, names, outputs, name=f"node_{case.op}", domain=DOMAIN, **attributes, **case.layout
    )
    live = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), [None] * x.ndim)
        for i, (n, x) in enumerate(zip(names, case.inputs, strict=True))
        if i not in case.constants
    ]
    results = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(y.dtype), [None] * y.ndim)
        for n, y in zip(outputs, expected(case), strict=True)
    ]
    constants = [onnx.numpy_helper.from_array(case.inputs[i], names[i]) for i in case.constants]
    graph = helper.make_graph([node], case.op, live, results, constants)
    bodies = functions_for([case.op]) if functions else []
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=bodies)


def feeds(case: Case) -> dict[str, Array]:
    return {f"x{i}": x for i, x in enumerate(case.inputs) if i not in case.constants}


def same_bits(a: Array, b: Array) -> bool:
    """Equal dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@dataclass(frozen=True)
class Sizes:
    """Sizes of the tensors that `bert_cases` makes."""

    batch: int = 2
    length: int = 5
    heads: int = 2
    width: int = 26
    ffn: int = 70
    bits: int = 8
    block: int = 16
    out_bits: int = 8
    spread: float = 1.0
    seed: int = 0

    @property
    def hidden(self) -> int:
        return self.heads * self.width


def draw_floats(rng: np.random.Generator, s: Sizes, *shape: int, wide: bool = False) -> Array:
    """Normal numbers; wide ones are spread over powers of two."""
    x = rng.standard_normal(shape)
    if wide and x.size:
        x = x * np.exp2(rng.uniform(-s.spread, s.spread, shape)) * np.exp2(rng.integers(-30, 30))
    return x.astype(np.float32)


def with_special(rng: np.random.Generator, x: Array) -> Array:
    """With NaN, infinities, subnormal and other odd numbers in some places, if there are enough."""
    flat = x.reshape(-1)
    if flat.size > 40:
        values = [np.nan, np.inf, -np.inf, 1e-40, -0.0, 0.0, 3.4e38, -(2.0**-126), 127.5, 2.0**20]
        at = rng.permutation(flat.size)[: len(values)]
        flat[at] = np.array(values, np.float32)
    return flat.reshape(x.shape)

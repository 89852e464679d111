"""The plan of scheme `binarybert`: signs for the encoder's weights, power-of-two blocks for its activations."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats import Binary, BlockShift, Static, Ternary
from bqc.formats.static import GELU_MINIMUM
from bqc.formats.stored import WeightFormat
from bqc.ir.anatomy import TABLE_ROLES, encoder, nodes_of, role
from bqc.passes._graph import constant, key_of
from bqc.passes._knapsack import best_subset
from bqc.passes._points import PER_HEAD, points_of, readers_of
from bqc.passes._weights import check_activations, require_whole, tied_tables, weight_inputs
from bqc.passes.annotate_sensitivity import SENSITIVITY_KEY
from bqc.plan import PARAMETERS, Plan, matching

__all__ = ["PlanBinarybert", "Spent", "spent"]

WEIGHTS: dict[str, WeightFormat] = {
    "split": Ternary(),  # until training splits them
    "ternary": Ternary(),
    "binary": Binary(),
    "two-plane": Binary(planes=2),
}
TABLE_SCALES = ("fp16", "fp32")
_LAST = ("head.transform", "head")


@dataclass(frozen=True)
class PlanBinarybert(ir.passes.InPlacePass):
    """Choose formats for scheme `binarybert` and write the plan onto the model.

    Linears have a scale a matrix, the word table one a token, in fp16. Position and type tables, and the layers after
    the pooler, keep 8 bits; so does a word table that is a decoder too. Source: BinaryBERT (arXiv 2012.15701), whose
    activations have one scale a tensor; ours have one a token and block, or with static ones, which training learns
    (LSQ, arXiv 1902.08153), one a tensor too. With a budget, adaptive splitting (its section
    3.3): the knapsack is solved exactly, the gain of a weight is what ternary is better than binary by its scores
    (annotate-sensitivity), or without scores by its squared error.

    Raises:
        BqcError: there are no such weights, bits or block; the budget is too small, or a score is missing.
    """

    contract = Contract("exact")

    weights: str = "split"
    """split (ternary ones, which training makes the sum of two binary ones), ternary, binary, or two-plane (binary, and
    binary again what that leaves)."""
    activation_bits: int = 8
    """8, 6 or 4, for what these weights and attention read."""
    activations: str = "dynamic"
    """dynamic (scales found at run time) or static (scales that training learns)."""
    block: int | str = "row"
    """16, 32, 64, 128, 256 or row: elements of an activation that share an exponent."""
    position_bits: int = 8
    """8, or 32 for float position and type tables, as published."""
    table_scales: str = "fp16"
    """fp16, or fp32 as published: what the word table's scales are stored in."""
    parameters: str = "fp16"
    """fp16 or fp32: what biases and norms are stored in."""
    budget_mib: float | None = None
    """MiB that the stored weights may take: the ternary ones that gain least become binary for it."""
    include: tuple[str, ...] = ()
    """Patterns of the weights to quantise, role or layer:role with * and ?; empty takes all."""
    exclude: tuple[str, ...] = ()
    """Patterns of the weights that stay float."""

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise BqcError(f"there are no {self.weights} weights; use one of {', '.join(WEIGHTS)}")
        if self.position_bits not in (8, 32):
            raise BqcError(f"position tables have no {self.position_bits} bits; use 8 or 32")
        if self.table_scales not in TABLE_SCALES:
            raise BqcError(
                f"scales of a table have no type {self.table_scales}; use {' or '.join(TABLE_SCALES)}"
            )
        if self.parameters not in PARAMETERS:
            raise BqcError(f"parameters have no type {self.parameters}; use {' or '.join(PARAMETERS)}")
        if self.budget_mib is not None and not 0 < self.budget_mib < float("inf"):
            raise BqcError(f"the budget is {self.budget_mib:g} MiB; it is a number above 0")
        if self.budget_mib is not None and not isinstance(WEIGHTS[self.weights], Ternary):
            raise BqcError(f"a budget chooses which weights are ternary; with weights {self.weights} none is")
        check_activations(self.activation_bits, self.block)
        if self.activations not in ("dynamic", "static"):
            raise BqcError(f"there are no {self.activations} activations; use dynamic or static")
        if self.activations == "static" and self.block != "row":
            raise BqcError(f"static activations have one scale a tensor: leave out block {self.block}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = encoder(model)
        require_whole(model)
        plan = Plan("binarybert", parameters=self.parameters)
        inputs = list(weight_inputs(model))
        keys = {key_of(node) for node, _, _ in inputs}
        chosen = matching(keys, self.include, "--include") if self.include else keys
        chosen = chosen - matching(keys, self.exclude, "--exclude")
        tied = {weight for pair in tied_tables(model).items() for weight in pair}
        for node, weight, _ in inputs:
            key, kind = key_of(node), role(node) or ""
            if key not in chosen:
                plan.kept[key] = "float: excluded"
            elif self.position_bits == 32 and kind in TABLE_ROLES[1:]:
                plan.kept[key] = "float: position_bits is 32"
            else:
                plan.weights[key] = self._weight(kind, found.head_dim, tied=weight in tied)
        if self.budget_mib is not None:
            _spend(plan, model, self.budget_mib)
        for point in points_of(model, found):
            readers = readers_of(point, found.layers)
            eight = any(isinstance(plan.weights.get(reader), BlockShift) for reader in readers)
            group = found.head_dim if point.split(":")[1] in PER_HEAD else 0
            # Softmax has codes of its own, which are always of 8 bits.
            softmax = point.endswith(":attention.softmax")
            bits = 8 if eight or softmax else self.activation_bits
            if self.activations == "static" and not softmax:
                plan.activations[point] = Static(bits, minimum=_minimum(model, point), group=group)
            else:
                plan.activations[point] = BlockShift(bits, self.block, group)
        plan.attach(model)
        return ir.passes.PassResult(model, True)

    def _weight(self, kind: str, head_dim: int, *, tied: bool) -> WeightFormat:
        if tied or kind in _LAST or kind in TABLE_ROLES[1:]:
            return BlockShift(8, self.block)
        signs = WEIGHTS[self.weights]
        assert isinstance(signs, Binary | Ternary), "formats of signs"
        if kind in TABLE_ROLES:
            return replace(signs, span="row", scales=self.table_scales)
        # The context arrives in blocks of one head.
        return replace(signs, group=head_dim) if kind == "attention.output" else signs


def _minimum(model: ir.Model, point: str) -> float | None:
    """What the second input of an FFN is never below."""
    layer, kind = point.split(":")
    if kind != "ffn.gelu":
        return None
    (node, *_) = nodes_of(model, layer, kind)
    return {"Gelu": GELU_MINIMUM, "Relu": 0.0}.get(node.op_type)


@dataclass(frozen=True)
class Spent:
    """How a budget is used.

    Attributes:
        budget_mib: MiB that there are.
        used_mib: MiB that the stored weights take.
        two: weights of two planes of signs.
        one: weights of one.
        split: whether training made two binary ones of each ternary one.
    """

    budget_mib: float
    used_mib: float
    two: int
    one: int
    split: bool = False

    def __str__(self) -> str:
        name = "split" if self.split else "ternary"
        return f"{self.two} weights {name}, {self.one} binary: {self.used_mib:.4g} of {self.budget_mib:g} MiB"


def spent(model: ir.Model, budget_mib: float) -> Spent:
    """How a planned float model, whose weights are not split yet, uses a budget; splitting takes no bytes."""
    plan = Plan.of(model)
    used, signs = _stored(plan, model)
    used += sum(one.cost(one.fmt) for one in signs)
    two = sum(isinstance(one.fmt, Ternary) for one in signs)
    return Spent(budget_mib, used / 2**20, two, len(signs) - two)


@dataclass(frozen=True)
class _Stored:
    """A weight of signs: the nodes that read it and along which axis, its format, rows and columns."""

    uses: list[tuple[ir.Node, int]]
    weight: ir.Value
    fmt: Binary | Ternary
    rows: int
    columns: int

    def cost(self, fmt: WeightFormat) -> int:
        """Bytes in a format."""
        return fmt.stored_bytes(self.rows, self.columns, table=self.uses[0][1] == 1)


def _stored(plan: Plan, model: ir.Model) -> tuple[int, list[_Stored]]:
    """Bytes of all that is not signs, and the weights that are."""
    uses: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for node, weight, axis in weight_inputs(model):
        uses.setdefault(weight, []).append((node, axis))
    signs = []
    fixed = sum(_float_bytes(value, plan.parameters) for value in model.graph.initializers.values())
    for weight, known in uses.items():
        node, axis = known[0]
        fmt = plan.weights.get(key_of(node))
        if fmt is None or weight.const_value is None:
            continue
        shape = weight.const_value.shape.numpy()
        rows, columns = (shape[1], shape[0]) if axis == 0 else (shape[0], shape[1])
        fixed -= weight.const_value.nbytes
        if isinstance(fmt, Binary | Ternary):
            signs.append(_Stored(known, weight, fmt, rows, columns))
        else:
            fixed += fmt.stored_bytes(rows, columns, table=axis == 1)
    return fixed, signs


def _spend(plan: Plan, model: ir.Model, budget_mib: float) -> None:
    """Make ternary weights binary so that the stored ones take at most ``budget_mib``."""
    budget = round(budget_mib * 2**20)
    fixed, signs = _stored(plan, model)
    formats = [Binary(one.fmt.span, one.fmt.group, one.fmt.scales) for one in signs]
    small = [one.cost(binary) for one, binary in zip(signs, formats, strict=True)]
    fixed += sum(small)
    if fixed > budget:
        # Rounded up: what is named is enough.
        least = math.ceil(fixed / 2**20 * 1e4) / 1e4
        raise BqcError(
            f"the budget is {budget_mib:g} MiB; the weights take {least:.4f} MiB with all of them binary"
        )
    gains = [_gain(one, binary) for one, binary in zip(signs, formats, strict=True)]
    costs = [one.cost(one.fmt) - cost for one, cost in zip(signs, small, strict=True)]
    kept = set(best_subset(gains, costs, budget - fixed))
    for at, (one, binary) in enumerate(zip(signs, formats, strict=True)):
        if at not in kept:
            plan.weights.update({key_of(node): binary for node, _ in one.uses})


def _float_bytes(value: ir.Value, parameters: str) -> int:
    """Bytes that a constant of the float model takes where no weight's format says so: biases and norms are vectors."""
    tensor = value.const_value
    if tensor is None:
        return 0
    narrow = parameters == "fp16" and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 1
    return tensor.nbytes // 2 if narrow else tensor.nbytes


def _gain(one: _Stored, binary: Binary) -> float:
    """What is lost with a ternary weight binary, less what is lost with it ternary."""
    node, axis = one.uses[0]
    # Scores are of the formats with scales in fp32, next to which rounding to fp16 is nothing.
    formats = [replace(fmt, group=0, scales="fp32") for fmt in (binary, one.fmt)]
    stored = node.metadata_props.get(SENSITIVITY_KEY)
    if stored is not None:
        scores = json.loads(stored)
        missing = next((str(fmt) for fmt in formats if str(fmt) not in scores), None)
        if missing is not None:
            raise BqcError(
                f"{key_of(node)} has no score in {missing}: score the weights in all four formats of signs"
            )
        return float(scores[str(formats[0])] - scores[str(formats[1])])
    data = np.asarray(constant(one.weight), np.float64)
    matrix = data.T if axis == 0 else data
    errors = [float(np.square(matrix - fmt.dequantize(*fmt.quantize(matrix))).sum()) for fmt in formats]
    return errors[0] - errors[1]

"""Weights become codes and exponents behind a dequantise node."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats import Binary
from bqc.formats.stored import Parts, WeightFormat
from bqc.ir.anatomy import weights_of
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import drop_dead
from bqc.ops.registry import OPERATORS
from bqc.passes._graph import block_node, constant, key_of, standard_node, weight_parts
from bqc.passes._weights import latents, tied_tables, weight_inputs, weight_uses
from bqc.plan import Plan

__all__ = ["QuantizeWeights"]


@dataclass(frozen=True)
class QuantizeWeights(ir.passes.InPlacePass):
    """Quantise every weight that the plan names, with the exponents of least squared error.

    Before::

        MatMul(x, W[K, N])                 Gather(table[V, H], ids)

    After::

        MatMul(x, Transpose(BlockDequantize(codes[N, K], exponents[N, n])))
        Gather(BlockDequantize(codes[V, H], exponents[V, n]), ids)

    and with formats of signs, SignDequantize(signs[P, N, K], scales[P, N or 1]), or of signs for products with signs,
    XnorDequantize(signs[N, K], scales[N or 1]); with N:M-sparse ones SparseDequantize(codes[N, K], scales[N]); in fp16
    HalfDequantize(rows[N, K]), as indices IndexDequantize(codes[N, K], table[256]).

    A weight that several nodes share is quantised and stored once, and so is a decoder that is a table transposed: its
    rows are the table's, in the same blocks. One that is read in blocks that end with the heads and in blocks that do
    not is stored for each. Of a sum of two weights (split-ternary) each becomes a plane. Contract: lossy, by the
    formats of the plan.

    Raises:
        BqcError: nodes that share a weight have different formats in the plan, a lookup table has a format without
            lookups, a weight, bias, gamma or beta is not finite, or a weight has numbers that its format does not have.
    """

    contract = Contract("lossy", cosine_min=0.8)

    cosine_min: float = 0.8
    """Least cosine of the outputs before and after that is promised; -1 for formats that need training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "contract", replace(self.contract, cosine_min=self.cosine_min))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        plan = Plan.of(model)
        count = 0
        for value in weights_of(model):
            vector = None if value.shape is None or len(value.shape) != 1 else constant(value)
            if vector is not None:
                _require_finite("vector", value, key_of(value), vector)
        _part_groups(model, plan)
        planned = [(node, weight, axis, key_of(node)) for node, weight, axis in weight_uses(model)]
        tables = tied_tables(model)
        _check_shared(plan, [(tables.get(weight, weight), key) for _, weight, _, key in planned])
        parts: dict[tuple[ir.Value, int], list[ir.Value]] = {}
        for node, weight, axis, key in planned:
            fmt = plan.weights.get(key)
            if fmt is None or not may_rewrite(node):
                continue
            if axis == 1 and f"{fmt.family}Gather" not in OPERATORS:
                raise BqcError(
                    f"{key} is a lookup table, which {fmt} cannot be; give it BlockShift or keep it float"
                )
            matrices = []
            for value in latents(weight):
                data = np.asarray(constant(value))
                _require_finite("weight", value, key, data)
                matrices.append(data.T if axis == 0 else data)
            stored = (tables[weight], 1) if weight in tables else (weight, axis)
            if stored not in parts:
                try:
                    made = _quantized(fmt, matrices, key)
                except ValueError as error:
                    raise BqcError(f"weight {weight.name!r} ({key}) {error}") from None
                parts[stored] = weight_parts(model.graph, stored[0], made, str(fmt), matrices[0].size)
            geometry = fmt.geometry(matrices[0].shape[1])
            new = [block_node(f"{fmt.family}Dequantize", parts[stored], geometry, like=node)]
            if axis == 0:
                shape = [*reversed(matrices[0].shape)]
                turned = standard_node(
                    "Transpose",
                    new[0].outputs,
                    {"perm": [1, 0]},
                    like=node,
                    dtype=ir.DataType.FLOAT,
                    shape=shape,
                )
                new.append(turned)
            model.graph.insert_before(node, new)
            node.replace_input_with(1 - axis, new[-1].outputs[0])
            count += 1
        drop_dead(model)
        return ir.passes.PassResult(model, count > 0)


def _quantized(fmt: WeightFormat, matrices: list[npt.NDArray[Any]], key: str) -> Parts:
    if len(matrices) == 1:
        return fmt.quantized(matrices[0])
    if not isinstance(fmt, Binary) or fmt.planes != len(matrices):
        raise BqcError(
            f"{key} is the sum of two weights, which {fmt} cannot be; give it Binary with planes=2"
        )
    return fmt.quantized_planes(*matrices)


def _part_groups(model: ir.Model, plan: Plan) -> None:
    """Give the nodes that share a weight, but not the groups of its blocks, one weight for each group."""
    first: dict[ir.Value, WeightFormat] = {}
    parted: dict[tuple[ir.Value, int], ir.Value] = {}
    for node, weight, axis in weight_inputs(model):
        fmt = plan.weights.get(key_of(node))
        if fmt is None:
            continue
        other = first.setdefault(weight, fmt)
        if fmt == other or _in_groups(fmt, other.group) != other:
            continue
        if (weight, fmt.group) not in parted:
            copy = ir.Value(
                name=f"{weight.name}.group{fmt.group}",
                type=weight.type,
                shape=weight.shape,
                const_value=weight.const_value,
                metadata_props=dict(weight.metadata_props),
            )
            model.graph.register_initializer(copy)
            parted[weight, fmt.group] = copy
        node.replace_input_with(1 - axis, parted[weight, fmt.group])


def _in_groups(fmt: Any, group: int) -> WeightFormat:
    """The same format in other groups, if it has any: formats are dataclasses."""
    has_groups = any(field.name == "group" for field in fields(fmt))
    other: WeightFormat = replace(fmt, group=group) if has_groups else fmt
    return other


def _require_finite(what: str, value: ir.Value, key: str, data: npt.NDArray[Any]) -> None:
    if not np.isfinite(data).all():
        raise BqcError(f"{what} {value.name!r} ({key}) holds NaN or infinite numbers; the model is damaged")


def _check_shared(plan: Plan, uses: list[tuple[ir.Value, str]]) -> None:
    first: dict[ir.Value, str] = {}
    for weight, key in uses:
        other = first.setdefault(weight, key)
        one, two = plan.weights.get(other), plan.weights.get(key)
        if one != two:
            raise BqcError(
                f"{other} and {key} are one shared weight, but the plan gives them {one or 'float'} and "
                f"{two or 'float'}; give both the same"
            )

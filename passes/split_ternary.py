"""Ternary weights become the sum of two binary ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.formats import Binary, Ternary
from bqc.formats.signs import split_ternary
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.passes._graph import constant, key_of, standard_node
from bqc.passes._weights import weight_inputs
from bqc.plan import Plan

__all__ = ["SplitTernary"]


@dataclass(frozen=True)
class SplitTernary(ir.passes.InPlacePass):
    """Split every weight that the plan makes ternary, so that each half can be trained on as a plane.

    Before::

        MatMul(x, W)                          plan: Ternary(tensor)

    After::

        MatMul(x, Add(W.first, W.second))     plan: Binary(tensor,planes=2)

    The sum of the halves is W and the sum of their binary forms its ternary one, both up to the rounding of what the
    weights are stored in. A weight that several nodes share is split once. Source: BinaryBERT (arXiv 2012.15701),
    section 3.2. Contract: ulp.
    """

    contract = Contract("ulp")
    trainable = True
    """What it leaves can be trained: a stage of a recipe may name it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        plan = Plan.of(model)
        split: dict[ir.Value, ir.Value] = {}
        count = 0
        for node, weight, axis in list(weight_inputs(model)):
            fmt = plan.weights.get(key_of(node))
            if not isinstance(fmt, Ternary):
                continue
            plan.weights[key_of(node)] = Binary(fmt.span, fmt.group, fmt.scales, planes=2)
            if weight not in split:
                split[weight] = _split(model, node, weight, axis, fmt)
            node.replace_input_with(1 - axis, split[weight])
            count += 1
        for weight, total in split.items():
            if not weight.uses():
                del model.graph.initializers[weight.name or ""]
                total.name = weight.name
        plan.attach(model)
        model.graph.sort()
        return ir.passes.PassResult(model, count > 0)


def _split(model: ir.Model, node: ir.Node, weight: ir.Value, axis: int, fmt: Ternary) -> ir.Value:
    """The sum of the halves, in the place of the weight."""
    data = np.asarray(constant(weight))
    matrix = data.T if axis == 0 else data
    halves = []
    for half, name in zip(
        split_ternary(matrix.astype(np.float64), fmt.span), ("first", "second"), strict=True
    ):
        stored = np.ascontiguousarray((half.T if axis == 0 else half).astype(data.dtype))
        value = ir.Value(
            name=f"{weight.name}.{name}",
            type=weight.type,
            shape=weight.shape,
            const_value=ir.Tensor(stored, name=f"{weight.name}.{name}"),
            metadata_props=dict(weight.metadata_props),
        )
        model.graph.register_initializer(value)
        halves.append(value)
    assert weight.dtype is not None, "canonical weights are typed"
    add = standard_node("Add", halves, {}, like=node, dtype=weight.dtype, shape=list(data.shape))
    # A labelled Add would be taken for that of the bias.
    del add.metadata_props[LAYER_KEY], add.metadata_props[ROLE_KEY]
    model.graph.insert_before(node, add)
    add.outputs[0].metadata_props.update(weight.metadata_props)
    return add.outputs[0]

"""Quantise/dequantise pairs at the scheme's quantisation points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats import BlockShift, Static
from bqc.formats.half import HALF_FAMILIES
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, VALUE_KEY, encoder, nodes_of, role, value_key
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import drop_dead, take_place
from bqc.ops.registry import DOMAIN
from bqc.passes._graph import block_node, dims, key_of, standard_node
from bqc.passes._key_mask import KeyMasks, mask_cast, masked
from bqc.passes._points import is_point
from bqc.passes._weights import is_linear
from bqc.plan import Plan

__all__ = ["QuantizeActivations", "require_scales"]

INT64 = ir.DataType.INT64


@dataclass(frozen=True)
class QuantizeActivations(ir.passes.InPlacePass):
    """Insert a pair at every point of the plan; softmax probabilities become unnormalised codes.

    Before::

        y = LayerNormalization(...)             p = Softmax(Add(scores, mask_bias))

    After::

        y = LayerNormalization(...)             p = SoftmaxDequantize(MaskedSoftmax(scores, mask))
        y' = BlockDequantize(BlockQuantize(y))

    Values have one exponent per sequence, head and block: `BlockQuantizeValues`. A linear whose weight is in fp16 or
    indices of it reads its input rounded to fp16, ``MatMul(HalfRound(x), W)``; one HalfRound serves all that read x.
    A point of static scale is read so by products alone, directly or through a Gather, Reshape or Transpose; residual
    sums and outputs go on reading the float value, as in the papers::

        codes, exponents, offset = StaticQuantize(y, exponent)
        y' = BlockDequantize(codes, exponents)          where y has a minimum: Sub(BlockDequantize(...), offset)

    where the exponent is an initializer of one number, which training learns.
    What follows GELU or ReLU gets no pair where only its signs are read (binarize-inputs): blocks would lose small
    numbers and add nothing.
    Contract: lossy, by the plan's formats.

    Raises:
        BqcError: a static scale is not known.
    """

    contract = Contract("lossy", cosine_min=0.8, idempotent=False)

    cosine_min: float = 0.8
    """Least cosine of the outputs before and after that is promised; -1 for formats that need training."""
    uncalibrated: bool = False
    """Static scales that are not known are 1, to be calibrated and learned."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "contract", replace(self.contract, cosine_min=self.cosine_min))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        plan = Plan.of(model)
        heads = encoder(model).heads
        writer = Writer(model.graph)
        if not self.uncalibrated:
            require_scales(plan)
        masks = KeyMasks(model)
        count = 0
        for key, fmt in plan.activations.items():
            layer, kind = key.split(":")
            mask = None
            if kind in ("attention.value", "attention.softmax"):
                mask = masks.of(_mask_cast(model, layer))
            if kind == "attention.softmax":
                assert mask is not None, "made above"
                count += _softmax(model, layer, mask)
                continue
            for node in list(nodes_of(model, layer, kind)):
                if not is_point(node) or not may_rewrite(node) or (kind == "ffn.gelu" and _gives_signs(node)):
                    continue
                if isinstance(fmt, Static):
                    count += _static_pair(model, writer, node, fmt, heads)
                    continue
                _pair(model, writer, node, fmt, mask if kind == "attention.value" else None, heads)
                count += 1
        count += _round_inputs(model, plan)
        drop_dead(model)
        # A mask may be computed later than the values that it is now read with.
        model.graph.sort()
        return ir.passes.PassResult(model, count > 0)


def _round_inputs(model: ir.Model, plan: Plan) -> int:
    """`HalfRound` before the linears whose formats ask for it; how many such linears there are."""
    rounded: dict[ir.Value, ir.Value] = {}
    count = 0
    for node in list(model.graph):
        fmt = plan.weights.get(key_of(node)) if is_linear(node) else None
        if fmt is None or fmt.family not in HALF_FAMILIES or not may_rewrite(node):
            continue
        x = node.inputs[0]
        assert x is not None, "a MatMul has two inputs"
        if x not in rounded:
            made = block_node("HalfRound", [x], {}, like=node)
            model.graph.insert_before(node, made)
            rounded[x] = made.outputs[0]
        node.replace_input_with(0, rounded[x])
        count += 1
    return count


def _gives_signs(node: ir.Node) -> bool:
    """Whether signs are all that is read of the node's output."""
    readers = list(node.outputs[0].consumers())
    return (
        bool(readers)
        and not node.outputs[0].is_graph_output()
        and all((reader.op_type, reader.domain) == ("Binarize", DOMAIN) for reader in readers)
    )


def require_scales(plan: Plan) -> None:
    """Raise BqcError if a static point has no scale."""
    if plan.unscaled:
        raise BqcError(
            f"{plan.unscaled[0]} has no scale: static activations are calibrated and learned by training (bqc train "
            "--activations static)"
        )


_PRODUCTS = ("MatMul", "Gather", "Reshape", "Transpose", "Squeeze", "Slice")
"""What products read a point by."""


def _static_pair(model: ir.Model, writer: Writer, node: ir.Node, fmt: Static, heads: int) -> int:
    point = node.outputs[0]
    readers = [user for user, _ in point.uses() if user.op_type in _PRODUCTS and not user.domain]
    if not readers:
        return 0
    block = dims(point)[-1]
    exponent = _exponent(model, node, fmt)
    geometry = {"block": block, "group": fmt.group}
    if role(node) == "attention.value":
        own = {"bits": fmt.bits, "block": block, "heads": heads}
        quantize = block_node("StaticQuantizeValues", [point, exponent], own, like=node)
        new = [quantize, *_for_every_token(writer, node, quantize)]
        exponents = new[-1].outputs[0]
    else:
        minimum = {} if fmt.minimum is None else {"minimum": float(fmt.minimum)}
        own = {"bits": fmt.bits, **geometry, **minimum}
        quantize = block_node("StaticQuantize", [point, exponent], own, like=node)
        new, exponents = [quantize], quantize.outputs[1]
    new.append(block_node("BlockDequantize", [quantize.outputs[0], exponents], geometry, like=node))
    if fmt.minimum is not None:
        read = [new[-1].outputs[0], quantize.outputs[2]]
        shape = None if point.shape is None else list(point.shape)
        new.append(standard_node("Sub", read, {}, like=node, dtype=ir.DataType.FLOAT, shape=shape))
    _same_value(node, quantize, new[-1])
    for user, index in list(point.uses()):
        if user in readers:
            user.replace_input_with(index, new[-1].outputs[0])
    model.graph.insert_after(node, new)
    return 1


def _exponent(model: ir.Model, node: ir.Node, fmt: Static) -> ir.Value:
    """The initializer of a point's scale, labelled as the point."""
    labels = {key: text for key, text in node.metadata_props.items() if key in (LAYER_KEY, ROLE_KEY)}
    name = f"bqc.exponent.{'.'.join(key_of(node).split(':'))}"
    known = model.graph.initializers.get(name)
    if known is not None:
        return known
    data = np.array([0 if fmt.exponent is None else fmt.exponent], np.float32)
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([1]),
        const_value=ir.Tensor(data, name=name),
        metadata_props=labels,
    )
    model.graph.register_initializer(value)
    return value


def _pair(
    model: ir.Model, writer: Writer, node: ir.Node, fmt: BlockShift, mask: ir.Value | None, heads: int
) -> None:
    point = node.outputs[0]
    assert point.shape is not None, "canonical values are typed"
    length = point.shape[-1]
    assert isinstance(length, int), "the last axis is static"
    block = fmt.block_size(length)
    if mask is None and fmt.block == "tensor":
        _tensor_pair(model, writer, node, fmt)
        return
    if mask is None:
        attributes = {"bits": fmt.bits, "block": block, "group": fmt.group}
        quantize = block_node("BlockQuantize", [point], attributes, like=node)
        new = [quantize]
        exponents = quantize.outputs[1]
    else:
        attributes = {"bits": fmt.bits, "block": block, "heads": heads}
        quantize = block_node("BlockQuantizeValues", [point, mask], attributes, like=node)
        spread = _for_every_token(writer, node, quantize)
        new = [quantize, *spread]
        exponents = spread[-1].outputs[0]
    geometry = {"block": block, "group": fmt.group}
    new.append(block_node("BlockDequantize", [quantize.outputs[0], exponents], geometry, like=node))
    _same_value(node, quantize, new[-1])
    _take_over(model, node, new)


def _for_every_token(writer: Writer, node: ir.Node, quantize: ir.Node) -> list[ir.Node]:
    """Exponents [B, n] of a sequence as [B, S, n]."""
    codes, exponents = quantize.outputs
    batch, length, count = dims(codes)[0], dims(codes)[1], dims(exponents)[1]
    axis = writer.shared("bqc.axis_1", np.array([1], np.int64))
    one = standard_node(
        "Unsqueeze", [exponents, axis], {}, like=node, dtype=ir.DataType.INT8, shape=[batch, 1, count]
    )
    lead = standard_node("Shape", [codes], {"start": 0, "end": 2}, like=node, dtype=INT64, shape=[2])
    size = standard_node("Concat", [lead.outputs[0], axis], {"axis": 0}, like=node, dtype=INT64, shape=[3])
    all_tokens = standard_node(
        "Expand",
        [one.outputs[0], size.outputs[0]],
        {},
        like=node,
        dtype=ir.DataType.INT8,
        shape=[batch, length, count],
    )
    return [one, lead, size, all_tokens]


def _tensor_pair(model: ir.Model, writer: Writer, node: ir.Node, fmt: BlockShift) -> None:
    """One exponent for the whole tensor: only for comparison, since rows then depend on each other."""
    point = node.outputs[0]
    assert point.shape is not None, "canonical values are typed"
    flat_shape = writer.shared("bqc.flat", np.array([-1], np.int64))
    flat = standard_node("Reshape", [point, flat_shape], {}, like=node, dtype=ir.DataType.FLOAT, shape=[None])
    attributes = {"bits": fmt.bits, "block": 2**62, "group": 0}
    quantize = block_node("BlockQuantize", flat.outputs, attributes, like=node)
    back = block_node("BlockDequantize", quantize.outputs, {"block": 2**62, "group": 0}, like=node)
    size = standard_node("Shape", [point], {}, like=node, dtype=INT64, shape=[len(point.shape)])
    shaped = standard_node(
        "Reshape",
        [back.outputs[0], size.outputs[0]],
        {},
        like=node,
        dtype=ir.DataType.FLOAT,
        shape=list(point.shape),
    )
    _same_value(node, shaped)
    _take_over(model, node, [flat, quantize, back, size, shaped])


def _take_over(model: ir.Model, node: ir.Node, new: list[ir.Node]) -> None:
    """Insert ``new`` behind ``node``; its last output is read wherever the node's output was."""
    point, result = node.outputs[0], new[-1].outputs[0]
    readers = {id(n) for n in new}
    was_output = point.is_graph_output()
    name = point.name
    for user, index in list(point.uses()):
        if id(user) not in readers:
            user.replace_input_with(index, result)
    if was_output:
        outputs = model.graph.outputs
        result.type, result.shape = point.type, point.shape
        outputs[list(outputs).index(point)] = result
        point.name, result.name = f"{name}.float", name
    model.graph.insert_after(node, new)


def _same_value(node: ir.Node, *new: ir.Node) -> None:
    """Record that the new nodes' outputs stand for the node's."""
    for one in new:
        one.metadata_props[VALUE_KEY] = value_key(node)


def _softmax(model: ir.Model, layer: str, mask: ir.Value) -> int:
    count = 0
    for node in list(nodes_of(model, layer, "attention.softmax")):
        if node.op_type != "Softmax" or not may_rewrite(node):
            continue
        scores = node.inputs[0]
        add, hides = masked(node)
        scaled = add.inputs[0] if add is not None and hides is not None else scores
        assert scaled is not None, "canonical scores"
        codes = block_node("MaskedSoftmax", [scaled, mask], {}, like=node)
        back = block_node("SoftmaxDequantize", codes.outputs, {}, like=node)
        _same_value(node, codes, back)
        model.graph.insert_after(node, [codes, back])
        take_place(node.outputs[0], back.outputs[0])
        count += 1
    return count


def _mask_cast(model: ir.Model, layer: str) -> ir.Node | None:
    """Where the mask of a layer starts: optimizers may leave layers with different ones."""
    casts = (
        mask_cast(masked(node)[1])
        for node in nodes_of(model, layer, "attention.softmax")
        if node.op_type == "Softmax"
    )
    return next((cast for cast in casts if cast is not None), None)

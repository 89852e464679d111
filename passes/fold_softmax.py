"""The products around the softmax run on codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.ir.anatomy import VALUE_KEY
from bqc.ir.build import Writer
from bqc.ir.counting import may_rewrite
from bqc.ir.rewrite import take_place
from bqc.passes._fold import DOMAIN, FoldRule, apply
from bqc.passes._graph import constant, made_with, standard_node

__all__ = ["FoldSoftmax"]


@dataclass(frozen=True)
class FoldSoftmax(ir.passes.InPlacePass):
    """Fold the head split, Q K^T and its scale, and P V with the normalisation of P.

    Before::

        Mul(MatMul(heads(BlockDequantize(q, eq)), heads_t(BlockDequantize(k, ek))), scale)
        merge(MatMul(SoftmaxDequantize(p), heads(BlockDequantize(v, Expand(ev)))))

    After::

        BlockScores(q, eq, k, ek)
        BlockContext(p, v, ev)

    where heads is Reshape [0, 0, h, d] and Transpose. SoftmaxDequantize(p) that is read otherwise too, as an output,
    is written out: Div(Cast(p), Cast(ReduceSum(Cast(p)))). Contract: ulp.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folded = apply(model, _Scores, _Context)
        left = [n for n in model.graph if n.op_type == "SoftmaxDequantize" and n.domain == DOMAIN]
        written = [node for node in left if may_rewrite(node)]
        for node in written:
            _write_out(model.graph, node)
        return ir.passes.PassResult(model, folded.modified or bool(written))


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    """It has no kernel; these operators have its bits."""
    codes, out = node.inputs[0], node.outputs[0]
    assert codes is not None, "it has an input"
    shape = None if codes.shape is None else list(codes.shape)
    total = None if shape is None else [*shape[:-1], 1]
    f32, i32 = ir.DataType.FLOAT, ir.DataType.INT32
    axis = Writer(graph).shared("bqc.last_axis", np.array([-1], np.int64))
    made: list[ir.Node] = []

    def step(
        op_type: str, *inputs: ir.Value, dtype: ir.DataType = f32, size: Any = shape, **named: Any
    ) -> ir.Value:
        made.append(standard_node(op_type, inputs, named, like=node, dtype=dtype, shape=size))
        return made[-1].outputs[0]

    whole = step("ReduceSum", step("Cast", codes, dtype=i32, to=i32), axis, dtype=i32, size=total, keepdims=1)
    weights = step("Div", step("Cast", codes, to=f32), step("Cast", whole, size=total, to=f32))
    made[-1].metadata_props.update({k: v for k, v in node.metadata_props.items() if k == VALUE_KEY})
    graph.insert_after(node, made)
    take_place(out, weights)
    graph.remove(node, safe=True)


class _Scores(FoldRule):
    reads_dequantized = True

    def pattern(
        self, op: Any, q: Any, eq: Any, k: Any, ek: Any, split_q: Any, split_k: Any, scale: Any
    ) -> Any:
        options = {"_domain": DOMAIN, "_allow_other_attributes": True}
        a = op.BlockDequantize(q, eq, _outputs=["a"], **options)
        b = op.BlockDequantize(k, ek, _outputs=["b"], **options)
        q4 = op.Transpose(op.Reshape(a, split_q, _allow_other_attributes=True), perm=[0, 2, 1, 3])
        k4 = op.Transpose(op.Reshape(b, split_k, _allow_other_attributes=True), perm=[0, 2, 3, 1])
        return op.Mul(op.MatMul(q4, k4, _outputs=["product"]), scale, _outputs=["scores"])

    def check(
        self, context: Any, a: ir.Value, b: ir.Value, split_q: ir.Value, scale: ir.Value, **_: Any
    ) -> Any:
        result = pattern.MatchResult()
        split, factor = constant(split_q), constant(scale)
        if split is None or split.shape != (4,) or factor is None or factor.size != 1:
            return result.fail("the head split or the scale is not constant", scale)
        left, right = (made_with(v) for v in (a, b))
        if left != right or left["group"] != split[3]:
            return result.fail("queries and keys do not share blocks inside a head", a)
        return result

    def rewrite(
        self,
        op: Any,
        q: Any,
        eq: Any,
        k: Any,
        ek: Any,
        split_q: ir.Value,
        scale: ir.Value,
        a: ir.Value,
        product: ir.Value,
        scores: ir.Value,
        **_: Any,
    ) -> Any:
        split, factor = constant(split_q), constant(scale)
        assert split is not None, "checked"
        assert factor is not None, "checked"
        attributes = {
            "heads": int(split[2]),
            "block": made_with(a)["block"],
            "scale": float(factor.reshape(-1)[0]),
        }
        return self.fused(
            op, "BlockScores", [q, eq, k, ek], attributes, last=scores, like=scores, through=[product]
        )


class _Context(FoldRule):
    reads_dequantized = True

    def pattern(self, op: Any, p: Any, v: Any, ev: Any, axes: Any, size: Any, split: Any, merge: Any) -> Any:
        options = {"_domain": DOMAIN, "_allow_other_attributes": True}
        probabilities = op.SoftmaxDequantize(p, **options)
        b = op.BlockDequantize(v, op.Expand(op.Unsqueeze(ev, axes), size), _outputs=["b"], **options)
        v4 = op.Transpose(op.Reshape(b, split, _allow_other_attributes=True), perm=[0, 2, 1, 3])
        c4 = op.MatMul(probabilities, v4, _outputs=["product"])
        return op.Reshape(
            op.Transpose(c4, perm=[0, 2, 1, 3]), merge, _outputs=["merged"], _allow_other_attributes=True
        )

    def check(self, context: Any, split: ir.Value, b: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        shape = constant(split)
        if shape is None or shape.shape != (4,) or made_with(b)["group"] != shape[3]:
            return result.fail("values have no blocks inside heads", b)
        return result

    def rewrite(
        self,
        op: Any,
        p: Any,
        v: Any,
        ev: Any,
        split: ir.Value,
        b: ir.Value,
        product: ir.Value,
        merged: ir.Value,
        **_: Any,
    ) -> Any:
        shape = constant(split)
        assert shape is not None, "checked"
        attributes = {"heads": int(shape[2]), "block": made_with(b)["block"]}
        return self.fused(
            op, "BlockContext", [p, v, ev], attributes, last=merged, like=merged, through=[product]
        )

"""Residual sum, LayerNormalization and quantisation join the linear before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply, linear
from bqc.passes._graph import dims, made_with
from bqc.passes.fold_matmul import out_attributes

__all__ = ["FoldLayerNorm", "norm_problem"]


@dataclass(frozen=True)
class FoldLayerNorm(ir.passes.InPlacePass):
    """Fold the end of a sub-layer.

    Before::

        BlockQuantize(LayerNormalization(Add(BlockLinear(...), BlockDequantize(r, er)), gamma, beta))

    After::

        BlockLinearAddNorm(..., r, er, gamma, beta)

    and so with weights of signs, SignLinear, SignLinearAddNorm, and sparse ones, SparseLinear, SparseLinearAddNorm; and
    XnorLinear, XnorLinearAddNorm. Linears in fp16 take a residual in float and give float::

        LayerNormalization(Add(HalfLinear(...), r), gamma, beta)     ->  HalfLinearAddNorm(..., r, gamma, beta)
        LayerNormalization(Add(IndexLinear(...), r), gamma, beta)    ->  IndexLinearAddNorm(..., r, gamma, beta)

    Contract: ulp (the operator sums rows in integers).
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return apply(
            model,
            *(_LinearAddNorm, _SignLinearAddNorm, _SparseLinearAddNorm, _XnorLinearAddNorm),
            *(_HalfLinearAddNorm, _IndexLinearAddNorm),
        )


def norm_problem(norm: ir.Value) -> str | None:
    """Why no operator of ``ai.bqc`` can take the place of a LayerNormalization, of which this is the first output."""
    node = norm.producer()
    assert node is not None, "a LayerNormalization makes it"
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return "its means or deviations are read"
    axis = made_with(norm).get("axis", -1)
    if norm.shape is None or axis not in (-1, len(norm.shape) - 1):
        return f"LayerNormalization over axis {axis}, which is not known to be the last"
    width = dims(norm)[-1:]
    if len(node.inputs) != 3 or any(
        v is None or v.shape is None or dims(v) != width for v in node.inputs[1:]
    ):
        return f"gamma and beta are not both {width}"
    return None


def _checked(norm: ir.Value, gamma: ir.Value, beta: ir.Value) -> Any:
    result = pattern.MatchResult()
    if not (gamma.is_initializer() and beta.is_initializer()):
        return result.fail("gamma and beta are not both initializers", norm)
    problem = norm_problem(norm)
    return result.fail(problem, norm) if problem else result


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether two values are of one shape. Sizes that inference named may be the same; others may be 1 at run time."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    pairs = zip(dims(a), dims(b), strict=True)
    return all(m == n or (_is_inferred(m) and _is_inferred(n)) for m, n in pairs)


def _is_inferred(size: int | str | None) -> bool:
    return size is None or str(size).startswith("unk__")


class _LinearAddNorm(FoldRule):
    reads_dequantized = True

    def pattern(
        self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any, r: Any, er: Any, gamma: Any, beta: Any
    ) -> Any:
        return self.ending(op, [x, ex, w, ew, bias], r, er, gamma, beta)

    def ending(self, op: Any, inputs: list[Any], r: Any, er: Any, gamma: Any, beta: Any) -> Any:
        """In a pattern: all from the linear of these inputs on."""
        y = linear(self, op, "Linear", inputs, "y")
        skip = op.BlockDequantize(r, er, _domain=DOMAIN, _outputs=["skip"], _allow_other_attributes=True)
        total = op.Add(y, skip)
        norm = op.LayerNormalization(total, gamma, beta, _outputs=["norm"], _allow_other_attributes=True)
        return op.BlockQuantize(norm, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def check(self, context: Any, norm: ir.Value, gamma: ir.Value, beta: ir.Value, **_: Any) -> Any:
        return _checked(norm, gamma, beta)

    def rewrite(
        self,
        op: Any,
        r: Any,
        er: Any,
        gamma: Any,
        beta: Any,
        y: ir.Value,
        skip: ir.Value,
        norm: ir.Value,
        codes: ir.Value,
        **_: Any,
    ) -> Any:
        residual = made_with(skip)
        attributes = {
            **made_with(y),
            **out_attributes(codes),
            "residual_block": residual["block"],
            "residual_group": residual["group"],
            "epsilon": made_with(norm).get("epsilon", 1e-5),
        }
        product = y.producer()
        assert product is not None, "matched values have producers"
        inputs = [*product.inputs, r, er, gamma, beta]
        name = f"{self.family}LinearAddNorm"
        return self.fused(op, name, inputs, attributes, last=codes, like=y, through=[y, norm])


class _SignLinearAddNorm(_LinearAddNorm):
    family = "Sign"


class _SparseLinearAddNorm(_LinearAddNorm):
    family = "Sparse"


class _HalfLinearAddNorm(FoldRule):
    family = "Half"

    def pattern(self, op: Any, x: Any, w: Any, bias: Any, r: Any, gamma: Any, beta: Any) -> Any:
        return self.ending(op, [x, w, bias], r, gamma, beta)

    def ending(self, op: Any, inputs: list[Any], r: Any, gamma: Any, beta: Any) -> Any:
        """In a pattern: all from the linear of these inputs on."""
        total = op.Add(linear(self, op, "Linear", inputs, "y"), r)
        return op.LayerNormalization(total, gamma, beta, _outputs=["norm"], _allow_other_attributes=True)

    def check(
        self,
        context: Any,
        y: ir.Value,
        r: ir.Value,
        norm: ir.Value,
        gamma: ir.Value,
        beta: ir.Value,
        **_: Any,
    ) -> Any:
        if r is y:
            return pattern.MatchResult().fail("the residual is the linear's output itself", r)
        if not _same_shape(y, r):
            return pattern.MatchResult().fail("the residual has another shape than the linear's output", r)
        return _checked(norm, gamma, beta)

    def rewrite(self, op: Any, r: Any, gamma: Any, beta: Any, y: ir.Value, norm: ir.Value, **_: Any) -> Any:
        product = y.producer()
        assert product is not None, "matched values have producers"
        attributes = {**made_with(y), "epsilon": made_with(norm).get("epsilon", 1e-5)}
        inputs = [*product.inputs, r, gamma, beta]
        name = f"{self.family}LinearAddNorm"
        return self.fused(op, name, inputs, attributes, last=norm, like=y, through=[y])


class _IndexLinearAddNorm(_HalfLinearAddNorm):
    family = "Index"

    def pattern(  # type: ignore[override]
        self, op: Any, x: Any, w: Any, table: Any, bias: Any, r: Any, gamma: Any, beta: Any
    ) -> Any:
        return self.ending(op, [x, w, table, bias], r, gamma, beta)


class _XnorLinearAddNorm(_LinearAddNorm):
    family = "Xnor"

    def pattern(  # type: ignore[override]
        self, op: Any, x: Any, w: Any, sw: Any, bias: Any, r: Any, er: Any, gamma: Any, beta: Any
    ) -> Any:
        return self.ending(op, [x, w, sw, bias], r, er, gamma, beta)

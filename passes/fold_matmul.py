"""MatMul of dequantised operands becomes one integer MatMul with its bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply, linear
from bqc.passes._graph import made_with
from bqc.passes._offsets import fold_offsets

__all__ = ["FoldMatMul"]


@dataclass(frozen=True)
class FoldMatMul(ir.passes.InPlacePass):
    """Fold linears, and the quantisation of queries, keys and values into them.

    Before::

        Add(MatMul(BlockDequantize(x, ex), BlockDequantizeTiles(w, ew)), bias)
        BlockQuantize(BlockLinear(...))            BlockQuantizeValues(BlockLinear(...), mask)

    After::

        BlockLinear(x, ex, w, ew, bias)
        BlockLinearQuantize(...)                   BlockLinearQuantizeValues(..., mask)

    and with weights of signs, SignDequantizeTiles, the operators SignLinear..., with sparse ones SparseLinear....
    Where inputs are signs too::

        Add(MatMul(BinaryDequantize(bits), XnorDequantizeTiles(w, sw)), bias)    ->  XnorLinear(bits, w, sw, bias)
        Binarize(BlockDequantize(x, ex))                                         ->  BinarizeCodes(x)

    With weights in fp16, and with indices IndexDequantizeTiles(i, t)::

        Add(MatMul(HalfRound(x), HalfDequantizeTiles(w)), bias)     ->     HalfLinear(x, w, bias)

    The zero point of a static activation is moved into the bias first::

        Add(MatMul(Sub(x, offset), W), bias)                        ->     Add(MatMul(x, W), bias - offset * sums of W)

    A Gather of tokens moves above the dequantise node first. Contract: ulp (the float MatMul's order of sums
    is undefined, the integer one's is not); the last two rules are exact.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        moved = fold_offsets(model)
        first = apply(
            model,
            *(_GatherTokens, _Linear, _SignLinear, _SparseLinear),
            *(_XnorLinear, _BinarizeCodes, _HalfLinear, _IndexLinear),
        )
        second = apply(
            model,
            *(_LinearQuantize, _LinearValues),
            *(_SignLinearQuantize, _SignLinearValues),
            *(_SparseLinearQuantize, _SparseLinearValues),
        )
        return ir.passes.PassResult(model, bool(moved) or first.modified or second.modified)


class _GatherTokens(FoldRule):
    """Gather(BlockDequantize(c, e), i) -> BlockDequantize(Gather(c, i), Gather(e, i)), not along the blocks."""

    reads_dequantized = True

    def pattern(self, op: Any, c: Any, e: Any, index: Any) -> Any:
        x = op.BlockDequantize(c, e, _domain=DOMAIN, _outputs=["x"], _allow_other_attributes=True)
        return op.Gather(x, index, _outputs=["y"], _allow_other_attributes=True)

    def check(self, context: Any, x: ir.Value, y: ir.Value, c: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        axis = made_with(y).get("axis", 0)
        if c.is_initializer() or c.shape is None or axis in (-1, len(c.shape) - 1):
            return result.fail("a weight, or a Gather along the blocks", y)
        return result

    def rewrite(
        self, op: Any, c: ir.Value, e: ir.Value, index: ir.Value, x: ir.Value, y: ir.Value, **_: Any
    ) -> Any:
        axis = made_with(y).get("axis", 0)
        parts = []
        for part in (c, e):
            taken = op.Gather(part, index, axis=axis)
            taken.type = part.type
            taken.shape = _gathered(part, index, axis)
            parts.append(taken)
        geometry = made_with(x)
        return self.fused(op, "BlockDequantize", parts, geometry, last=y, like=y, through=[x])


class _Linear(FoldRule):
    reads_dequantized = True

    def pattern(self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any) -> Any:
        left = op.BlockDequantize(x, ex, _domain=DOMAIN, _outputs=["left"], _allow_other_attributes=True)
        right = linear(self, op, "DequantizeTiles", [w, ew], "right")
        return op.Add(op.MatMul(left, right, _outputs=["product"]), bias, _outputs=["y"])

    def check(self, context: Any, left: ir.Value, right: ir.Value, bias: ir.Value, **_: Any) -> Any:
        return _checked(bias, left, self.mismatch(made_with(left), made_with(right)))

    def mismatch(self, activations: dict[str, Any], weight: dict[str, Any]) -> str | None:
        """What keeps activations and a weight with these attributes apart, if anything does."""
        ours, theirs = (_blocks(one, weight["columns"]) for one in (activations, weight))
        return None if ours == theirs else f"blocks differ: activations {ours}, weight {theirs}"

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        ex: ir.Value,
        w: ir.Value,
        ew: ir.Value,
        bias: ir.Value,
        left: ir.Value,
        right: ir.Value,
        product: ir.Value,
        y: ir.Value,
        **_: Any,
    ) -> Any:
        attributes = self.attributes(left, right)
        return self.fused(
            op, f"{self.family}Linear", [x, ex, w, ew, bias], attributes, last=y, like=y, through=[product]
        )

    def attributes(self, left: ir.Value, right: ir.Value) -> dict[str, Any]:
        """Of the fused operator, from the dequantise nodes of activations and weight."""
        return made_with(right)


class _LinearQuantize(FoldRule):
    def pattern(self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any) -> Any:
        y = linear(self, op, "Linear", [x, ex, w, ew, bias], "y")
        return op.BlockQuantize(y, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def rewrite(
        self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any, y: ir.Value, codes: ir.Value, **_: Any
    ) -> Any:
        attributes = {**made_with(y), **out_attributes(codes)}
        return self.fused(
            op,
            f"{self.family}LinearQuantize",
            [x, ex, w, ew, bias],
            attributes,
            last=codes,
            like=y,
            through=[y],
        )


class _LinearValues(FoldRule):
    def pattern(self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any, mask: Any) -> Any:
        y = linear(self, op, "Linear", [x, ex, w, ew, bias], "y")
        return op.BlockQuantizeValues(
            y, mask, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True
        )

    def rewrite(
        self,
        op: Any,
        x: Any,
        ex: Any,
        w: Any,
        ew: Any,
        bias: Any,
        mask: Any,
        y: ir.Value,
        codes: ir.Value,
        **_: Any,
    ) -> Any:
        known = made_with(codes)
        out = {"heads": known["heads"], "out_bits": known["bits"], "out_block": known["block"]}
        attributes = {**made_with(y), **out}
        inputs = [x, ex, w, ew, bias, mask]
        return self.fused(
            op, f"{self.family}LinearQuantizeValues", inputs, attributes, last=codes, like=y, through=[y]
        )


class _SignLinear(_Linear):
    family = "Sign"

    def mismatch(self, activations: dict[str, Any], weight: dict[str, Any]) -> str | None:
        ours, theirs = (one["group"] or weight["columns"] for one in (activations, weight))
        return None if ours == theirs else f"groups differ: activations {ours}, weight {theirs}"

    def attributes(self, left: ir.Value, right: ir.Value) -> dict[str, Any]:
        # Such weights have no blocks of their own: they are summed up in those of the activations.
        return {**made_with(right), "block": made_with(left)["block"]}


class _SignLinearQuantize(_LinearQuantize):
    family = "Sign"


class _SignLinearValues(_LinearValues):
    family = "Sign"


class _SparseLinear(_SignLinear):
    family = "Sparse"


class _SparseLinearQuantize(_LinearQuantize):
    family = "Sparse"


class _SparseLinearValues(_LinearValues):
    family = "Sparse"


class _RoundedLinear(FoldRule):
    """A linear whose input is rounded to fp16; rules name the parts of its weight."""

    reads_dequantized = True
    parts: tuple[str, ...]

    def product(self, op: Any, x: Any, weight: list[Any], bias: Any) -> Any:
        left = op.HalfRound(x, _domain=DOMAIN, _outputs=["left"])
        right = linear(self, op, "DequantizeTiles", weight, "right")
        return op.Add(op.MatMul(left, right, _outputs=["product"]), bias, _outputs=["y"])

    def check(self, context: Any, bias: ir.Value, **_: Any) -> Any:
        result = pattern.MatchResult()
        if not bias.is_initializer() or bias.shape is None or len(bias.shape) != 1:
            return result.fail("the bias is no rank-1 initializer", bias)
        return result

    def rewrite(
        self, op: Any, x: ir.Value, bias: ir.Value, right: ir.Value, product: ir.Value, y: ir.Value, **v: Any
    ) -> Any:
        inputs = [x, *(v[part] for part in self.parts), bias]
        attributes = {"layout": made_with(right)["layout"]}
        return self.fused(op, f"{self.family}Linear", inputs, attributes, last=y, like=y, through=[product])


class _HalfLinear(_RoundedLinear):
    family = "Half"
    parts = ("w",)

    def pattern(self, op: Any, x: Any, w: Any, bias: Any) -> Any:
        return self.product(op, x, [w], bias)


class _IndexLinear(_RoundedLinear):
    family = "Index"
    parts = ("w", "table")

    def pattern(self, op: Any, x: Any, w: Any, table: Any, bias: Any) -> Any:
        return self.product(op, x, [w, table], bias)


class _XnorLinear(FoldRule):
    family = "Xnor"
    reads_dequantized = True

    def pattern(self, op: Any, x: Any, w: Any, sw: Any, bias: Any) -> Any:
        left = op.BinaryDequantize(x, _domain=DOMAIN, _outputs=["left"], _allow_other_attributes=True)
        right = linear(self, op, "DequantizeTiles", [w, sw], "right")
        return op.Add(op.MatMul(left, right, _outputs=["product"]), bias, _outputs=["y"])

    def check(self, context: Any, left: ir.Value, right: ir.Value, bias: ir.Value, **_: Any) -> Any:
        return _checked(bias, left, _width_mismatch(made_with(left), made_with(right)))

    def rewrite(
        self,
        op: Any,
        x: Any,
        w: Any,
        sw: Any,
        bias: Any,
        right: ir.Value,
        product: ir.Value,
        y: ir.Value,
        **_: Any,
    ) -> Any:
        inputs = [x, w, sw, bias]
        return self.fused(op, "XnorLinear", inputs, made_with(right), last=y, like=y, through=[product])


class _BinarizeCodes(FoldRule):
    reads_dequantized = True

    def pattern(self, op: Any, c: Any, e: Any) -> Any:
        x = op.BlockDequantize(c, e, _domain=DOMAIN, _allow_other_attributes=True)
        return op.Binarize(x, _domain=DOMAIN, _outputs=["bits"])

    def rewrite(self, op: Any, c: Any, bits: ir.Value, **_: Any) -> Any:
        return self.fused(op, "BinarizeCodes", [c], {}, last=bits, like=bits)


def _checked(bias: ir.Value, left: ir.Value, problem: str | None) -> Any:
    result = pattern.MatchResult()
    if not bias.is_initializer() or bias.shape is None or len(bias.shape) != 1:
        return result.fail("the bias is no rank-1 initializer", bias)
    return result.fail(problem, left) if problem else result


def _width_mismatch(bits: dict[str, Any], weight: dict[str, Any]) -> str | None:
    ours, theirs = bits["columns"], weight["columns"]
    return None if ours == theirs else f"columns differ: signs {ours}, weight {theirs}"


def out_attributes(codes: ir.Value) -> dict[str, Any]:
    """Attributes of a BlockQuantize as those of an operator that ends in one."""
    return {f"out_{name}": value for name, value in made_with(codes).items()}


def _blocks(attributes: dict[str, Any], length: int) -> tuple[int, int]:
    span = attributes["group"] or length
    return min(attributes["block"], span), span


def _gathered(part: ir.Value, index: ir.Value, axis: int) -> ir.Shape | None:
    if part.shape is None or index.shape is None:
        return None
    at = axis % len(part.shape)
    return ir.Shape([*part.shape[:at], *index.shape, *part.shape[at + 1 :]])

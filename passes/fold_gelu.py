"""GELU or ReLU and the quantisation of its output join the linear before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bqc.contract import Contract
from bqc.passes._fold import DOMAIN, FoldRule, apply, linear
from bqc.passes._graph import made_with
from bqc.passes.fold_matmul import out_attributes

__all__ = ["FoldGelu", "gelu_form"]


@dataclass(frozen=True)
class FoldGelu(ir.passes.InPlacePass):
    """Fold GELU or ReLU and the quantisation of its output into the linear before them.

    Before: ``BlockQuantize(Gelu(BlockLinear(...)))``, ``BlockQuantize(Relu(BlockLinear(...)))``
    After:  ``BlockLinearGelu(...)``, ``BlockLinearRelu(...)``

    and so with weights of signs, ``SignLinear``, ``SignLinearGelu`` and ``SignLinearRelu``, and sparse ones,
    ``SparseLinear``, ``SparseLinearGelu`` and ``SparseLinearRelu``. Linears in fp16 give float, and need no
    quantisation behind them::

        Gelu(HalfLinear(...)), Relu(HalfLinear(...))      ->  HalfLinearGelu(...), HalfLinearRelu(...)
        Gelu(IndexLinear(...)), Relu(IndexLinear(...))    ->  IndexLinearGelu(...), IndexLinearRelu(...)

    Where signs are all that is read, GELU and ReLU
    disappear, as they are above 0 where their input is::

        Binarize(Gelu(y)), Binarize(Relu(y))    ->  Binarize(y)
        Binarize(XnorLinear(...))               ->  XnorLinearBinarize(...)

    Contract: ulp (the operator's GELU is a polynomial within 1.5e-6 of either form; that of the tanh form is above 0 at
    256 numbers between -5 and -4.995, and both take subnormals for 0). Source of the rule: SensiMix (PLoS ONE
    10.1371/journal.pone.0265621), whose 0 is negative.
    """

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        first = apply(
            model,
            *(_LinearGelu, _SignLinearGelu, _SparseLinearGelu),
            *(_LinearRelu, _SignLinearRelu, _SparseLinearRelu),
            *(_HalfLinearGelu, _IndexLinearGelu, _HalfLinearRelu, _IndexLinearRelu),
            *(_SignOfGelu, _SignOfRelu),
        )
        second = apply(model, _XnorLinearBinarize)
        return ir.passes.PassResult(model, first.modified or second.modified)


def gelu_form(gelu: ir.Value) -> dict[str, int]:
    """Attributes of an operator of ``ai.bqc`` that say which form of GELU a value was made by."""
    return {"approximate": int(made_with(gelu).get("approximate", "none") == "tanh")}


class _LinearGelu(FoldRule):
    activation = "Gelu"

    def pattern(self, op: Any, x: Any, ex: Any, w: Any, ew: Any, bias: Any) -> Any:
        y = linear(self, op, "Linear", [x, ex, w, ew, bias], "y")
        g = getattr(op, self.activation)(y, _outputs=["g"], _allow_other_attributes=True)
        return op.BlockQuantize(g, _domain=DOMAIN, _outputs=["codes", "e"], _allow_other_attributes=True)

    def rewrite(
        self,
        op: Any,
        x: Any,
        ex: Any,
        w: Any,
        ew: Any,
        bias: Any,
        y: ir.Value,
        g: ir.Value,
        codes: ir.Value,
        **_: Any,
    ) -> Any:
        attributes = {**made_with(y), **out_attributes(codes)}
        if self.activation == "Gelu":
            attributes.update(gelu_form(g))
        inputs = [x, ex, w, ew, bias]
        name = f"{self.family}Linear{self.activation}"
        return self.fused(op, name, inputs, attributes, last=codes, like=y, through=[y, g])


class _SignLinearGelu(_LinearGelu):
    family = "Sign"


class _SparseLinearGelu(_LinearGelu):
    family = "Sparse"


class _LinearRelu(_LinearGelu):
    activation = "Relu"


class _SignLinearRelu(_LinearRelu):
    family = "Sign"


class _SparseLinearRelu(_LinearRelu):
    family = "Sparse"


class _HalfLinearGelu(FoldRule):
    family = "Half"
    activation = "Gelu"

    def pattern(self, op: Any, x: Any, w: Any, bias: Any) -> Any:
        return self.ending(op, [x, w, bias])

    def ending(self, op: Any, inputs: list[Any]) -> Any:
        """In a pattern: the linear of these inputs and what follows."""
        y = linear(self, op, "Linear", inputs, "y")
        return getattr(op, self.activation)(y, _outputs=["g"], _allow_other_attributes=True)

    def rewrite(self, op: Any, y: ir.Value, g: ir.Value, **_: Any) -> Any:
        product = y.producer()
        assert product is not None, "matched values have producers"
        attributes = {**made_with(y), **gelu_form(g)} if self.activation == "Gelu" else made_with(y)
        name = f"{self.family}Linear{self.activation}"
        inputs = [value for value in product.inputs if value is not None]
        return self.fused(op, name, inputs, attributes, last=g, like=y, through=[y])


class _HalfLinearRelu(_HalfLinearGelu):
    activation = "Relu"


class _IndexLinearGelu(_HalfLinearGelu):
    family = "Index"

    def pattern(self, op: Any, x: Any, w: Any, table: Any, bias: Any) -> Any:  # type: ignore[override]
        return self.ending(op, [x, w, table, bias])


class _IndexLinearRelu(_IndexLinearGelu):
    activation = "Relu"


class _SignOfGelu(FoldRule):
    activation = "Gelu"
    reads_dequantized = True  # others may read the activation

    def pattern(self, op: Any, y: Any) -> Any:
        g = getattr(op, self.activation)(y, _outputs=["g"], _allow_other_attributes=True)
        return op.Binarize(g, _domain=DOMAIN, _outputs=["bits"])

    def rewrite(self, op: Any, y: Any, g: ir.Value, bits: ir.Value) -> Any:
        return self.fused(op, "Binarize", [y], {}, last=bits, like=bits, through=[g])


class _SignOfRelu(_SignOfGelu):
    activation = "Relu"


class _XnorLinearBinarize(FoldRule):
    family = "Xnor"

    def pattern(self, op: Any, x: Any, w: Any, sw: Any, bias: Any) -> Any:
        y = linear(self, op, "Linear", [x, w, sw, bias], "y")
        return op.Binarize(y, _domain=DOMAIN, _outputs=["bits"])

    def rewrite(self, op: Any, x: Any, w: Any, sw: Any, bias: Any, y: ir.Value, bits: ir.Value) -> Any:
        inputs = [x, w, sw, bias]
        return self.fused(op, "XnorLinearBinarize", inputs, made_with(y), last=bits, like=y, through=[y])

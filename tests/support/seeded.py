"""A pass with a bug on request, installed as another package would install it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from onnxscript.rewriter import pattern

from bqc.contract import Contract
from bqc.ir.anatomy import layer
from bqc.ir.rules import counted

__all__ = ["SpellSoftmax", "install"]


@dataclass(frozen=True)
class SpellSoftmax(ir.passes.InPlacePass):
    """Write Softmax out.

    Before: ``Softmax(x; axis=-1)``
    After: ``Div(e, ReduceSum(e, [-1]))`` with ``e = Exp(Sub(x, ReduceMax(x, [-1])))``
    """

    wrong_layer: str = "none"
    """In this layer the sum runs over the wrong axis."""
    raises: bool = False
    """Fail in the wrong layer instead."""

    contract = Contract("ulp")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = pattern.RewriteRuleSet([counted(_Softmax(self))]).apply_to_model(model)
        return ir.passes.PassResult(model, count > 0)


class _Softmax(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    def __init__(self, options: SpellSoftmax) -> None:
        super().__init__()
        self.options = options

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Softmax(x, axis=-1, _outputs=["y"])

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        node = y.producer()
        assert node is not None
        wrong = layer(node) == self.options.wrong_layer
        if wrong and self.options.raises:
            raise KeyError("ffn")
        last = op.Constant(value_ints=[-1])
        e = op.Exp(op.Sub(x, op.ReduceMax(x, last)))
        total = op.ReduceSum(e, op.Constant(value_ints=[-2]) if wrong else last)
        made = op.Div(e, total)
        for value in (last, e.producer().inputs[0], e, total, total.producer().inputs[1], made):
            value.producer().metadata_props.update(node.metadata_props)
        return made


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make ``spell-softmax`` a pass that ``bqc`` finds through its entry point."""
    place = folder / "seeded-0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: seeded\nVersion: 0\n")
    (place / "entry_points.txt").write_text(
        "[bqc.passes]\nspell-softmax = tests.support.seeded:SpellSoftmax\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(folder)

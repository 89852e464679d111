"""A plan from a recipe file instead of a scheme's own choice."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.passes._graph import key_of
from bqc.passes._weights import weight_uses
from bqc.plan import Plan

__all__ = ["PlanRecipe"]


@dataclass(frozen=True)
class PlanRecipe(ir.passes.InPlacePass):
    """Attach the plan of a recipe (YAML text), after checking that the model has all it names."""

    contract = Contract("exact")

    text: str
    """Of the recipe, YAML."""
    where: str = "recipe"
    """What errors call it: its file."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        plan = Plan.from_yaml(self.text, self.where)
        weights = {key_of(node) for node, _, _ in weight_uses(model)}
        points = {key_of(node) for node in model.graph}
        for what, wanted, known in (("weight", plan.weights, weights), ("point", plan.activations, points)):
            for key in wanted:
                if key not in known:
                    near = difflib.get_close_matches(key, known, n=2)
                    hint = f"; nearest: {', '.join(near)}" if near else ""
                    raise BqcError(f"{self.where}: the model has no {what} {key!r}{hint}")
        for key in sorted(weights - set(plan.weights) - set(plan.kept)):
            plan.kept[key] = "float: not in the recipe"
        plan.attach(model)
        return ir.passes.PassResult(model, True)

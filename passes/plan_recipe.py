"""A plan from a recipe file instead of a scheme's own choice."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats.stored import WeightFormat
from bqc.ir.anatomy import encoder, role
from bqc.layer_ranges import written
from bqc.passes._graph import dims, key_of
from bqc.passes._points import POINT_ROLES, is_point
from bqc.passes._weights import latents, weight_uses
from bqc.plan import ActivationFormat, Plan, load_yaml

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
        points = {key_of(node) for node in model.graph if role(node) in POINT_ROLES}
        named = (
            ("weights", "weight", plan.weights, weights),
            ("activations", "point", plan.activations, points),
            ("kept", "weight", plan.kept, weights),
        )
        for section, what, wanted, known in named:
            for key in wanted:
                if key not in known:
                    entry = self._written(section, key)
                    among = "" if entry == key else f", of {entry!r}"
                    near = difflib.get_close_matches(key, known, n=2)
                    hint = f"; nearest: {', '.join(near)}" if near else ""
                    raise BqcError(f"{self.where}: the model has no {what} {key!r}{among}{hint}")
        for key, why in plan.kept.items():
            if why.startswith("float") and key in plan.weights:
                raise BqcError(
                    f"{self._at('kept', key)} is kept float, and weights gives it {plan.weights[key]}: leave one out"
                )
        self._check_groups(plan, model)
        self._check_values(plan, model)
        self._check_probabilities(plan)
        for key in sorted(weights - set(plan.weights) - set(plan.kept)):
            plan.kept[key] = "float: not in the recipe"
        plan.attach(model)
        return ir.passes.PassResult(model, True)

    def _check_groups(self, plan: Plan, model: ir.Model) -> None:
        """A row is a whole number of the groups that its format has."""
        rows: list[tuple[str, str, Mapping[str, WeightFormat | ActivationFormat], Any]] = [
            ("weights", key_of(n), plan.weights, dims(latents(w)[0])[i]) for n, w, i in weight_uses(model)
        ]
        rows += [
            ("activations", key_of(node), plan.activations, dims(node.outputs[0])[-1])
            for node in model.graph
            if is_point(node) and dims(node.outputs[0])
        ]
        for what, key, formats, length in rows:
            fmt = formats.get(key)
            if fmt is not None and fmt.group and isinstance(length, int) and length % fmt.group:
                raise BqcError(
                    f"{self._at(what, key)}: {fmt}: a row of {length} is not a whole number of groups of {fmt.group}"
                )

    def _check_values(self, plan: Plan, model: ir.Model) -> None:
        """Values are quantised head by head, whatever their format says."""
        for key, fmt in plan.activations.items():
            if key.endswith(":attention.value") and fmt.group != encoder(model).head_dim:
                own = replace(fmt, group=encoder(model).head_dim)
                raise BqcError(
                    f"{self._at('activations', key)}: {fmt} has group {fmt.group}, and values are quantised "
                    f"inside heads of {own.group}: write {own}"
                )

    def _check_probabilities(self, plan: Plan) -> None:
        """Softmax has codes of its own, of which a format says only that they are wanted."""
        for key, fmt in plan.activations.items():
            if key.endswith(":attention.softmax") and (fmt.bits != 8 or fmt.group):
                own = replace(fmt, bits=8, group=0)
                raise BqcError(
                    f"{self._at('activations', key)}: {fmt}: softmax has unsigned codes of 8 bits and one sum a row, "
                    f"whatever is asked for: write {own}"
                )

    def _at(self, section: str, key: str) -> str:
        return f"{self.where}: {section}: {self._written(section, key)}"

    def _written(self, section: str, key: str) -> str:
        """The recipe's own key, which may be a range of layers."""
        return written(key, map(str, load_yaml(self.text, self.where)[section]))

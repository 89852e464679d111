"""A float model made ready to be trained under a scheme: planned, its activations quantised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from torch import Tensor

from bqc.errors import BqcError
from bqc.pipeline.spelling import parse
from bqc.plan import Plan
from bqc.schemes import scheme_with
from bqc.train.calibration import calibrate
from bqc.train.module import OnnxModule
from bqc.train.recipe import Recipe
from bqc.train.untying import untie

__all__ = ["FLOAT", "Prepared", "chosen_scheme", "default_recipe", "prepare"]

FLOAT = "none"
"""The scheme that trains without quantisation."""


@dataclass(frozen=True)
class Prepared:
    """A model ready to be trained under a scheme.

    Attributes:
        model: the annotated float model, with its plan; parameters are written back into it.
        graph: what training runs: ``model`` with quantised activations.
        plan: formats; None without quantisation.
        simulation: passes from ``model`` to ``graph``.
        lowering: passes from ``model`` to the compiled graph.
    """

    model: ir.Model
    graph: ir.Model
    plan: Plan | None
    simulation: tuple[ir.passes.InPlacePass, ...] = ()
    lowering: tuple[ir.passes.InPlacePass, ...] = ()

    def lowered(self, trained: OnnxModule) -> ir.Model:
        """The compiled graph of a module of ``graph``, as `bqc.compile` makes it by ``plan``."""
        model = self.model.clone()
        trained.write_back(model)
        for one in self.lowering:
            one(model)
        return model

    def calibrated(self, batches: Iterable[Mapping[str, Tensor]]) -> Prepared:
        """The same with scales for the static points that have none, from what ``batches`` are in the float model.

        `bqc.train.calibration.calibrate` says how.
        """
        if self.plan is None or not self.plan.unscaled:
            return self
        plan = Plan.of(self.model)
        found = calibrate(self.graph, batches)
        plan.activations.update({key: found[key] for key in plan.unscaled if key in found})
        plan.attach(self.model)
        return _simulated(self.model, self.simulation, self.lowering)

    def rewritten(self, trained: OnnxModule, passes: Iterable[str]) -> Prepared:
        """``model`` with the weights of a module of ``graph`` and rewritten by passes, in place; what to train next.

        Raises:
            BqcError: a pass that does not exist or cannot be run.
        """
        trained.write_back(self.model)
        for one in (one for text in passes for one in parse(text)):
            one(self.model)
        return _simulated(self.model, self.simulation, self.lowering)


def prepare(model: ir.Model, scheme: str, options: Mapping[str, Any] | None = None) -> Prepared:
    """Plan a float model under a scheme and make the graph that training runs.

    Raises:
        BqcError: unknown scheme or option, or a scheme that cannot be trained.
    """
    untie(model)
    if scheme == FLOAT:
        _no_options(options)
        return Prepared(model, model, None)
    chosen = chosen_scheme(scheme, options)
    if not hasattr(chosen, "simulate"):
        raise BqcError(f"scheme {scheme} cannot be trained: it does not say how to simulate it")
    for one in chosen.plan():
        one(model)
    return _simulated(model, tuple(chosen.simulate()), tuple(chosen.lower()))


def default_recipe(scheme: str, options: Mapping[str, Any] | None = None, **settings: Any) -> Recipe:
    """What ``bqc train`` does without a recipe: what the scheme says, else two stages; for ``none``, fine-tuning.

    Raises:
        BqcError: unknown scheme, or wrong options or settings.
    """
    if scheme == FLOAT:
        _no_options(options)
        return Recipe.fine_tuning(**settings)
    chosen = chosen_scheme(scheme, options)
    own: Recipe = chosen.recipe(**settings) if hasattr(chosen, "recipe") else Recipe.two_stage(**settings)
    return own


def chosen_scheme(name: str, options: Mapping[str, Any] | None) -> Any:
    """The scheme of that name with these options.

    Raises:
        BqcError: unknown scheme or option.
    """
    return scheme_with(name, options or {}, besides=(FLOAT,))


def _no_options(options: Mapping[str, Any] | None) -> None:
    if options:
        raise BqcError(f"scheme {FLOAT} trains in float and has no option {next(iter(options))!r}")


def _simulated(
    model: ir.Model,
    simulation: tuple[ir.passes.InPlacePass, ...],
    lowering: tuple[ir.passes.InPlacePass, ...],
) -> Prepared:
    graph = model.clone()
    for one in simulation:
        one(graph)
    return Prepared(model, graph, Plan.of(model), simulation, lowering)

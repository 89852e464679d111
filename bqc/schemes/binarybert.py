"""`binarybert`: weights of one or two planes of signs, trained by way of ternary ones.

Source: Bai et al., "BinaryBERT: Pushing the Limit of BERT Quantization" (ACL 2021, arXiv 2012.15701).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.passes.annotate_sensitivity import AnnotateSensitivity
from bqc.passes.plan_binarybert import PlanBinarybert, Spent, spent
from bqc.passes.plan_recipe import PlanRecipe
from bqc.passes.relu_ffn import ReluFfn
from bqc.plan import Plan
from bqc.schemes.lowering import lowering, simulation

if TYPE_CHECKING:
    from bqc.train.recipe import Recipe

__all__ = ["Binarybert"]


@dataclass(frozen=True)
class Binarybert:
    """Options of the scheme; see docs/schemes/binarybert.md."""

    weights: str = "split"
    """split: ternary ones, which training makes the sum of two binary ones; ternary; binary; or two-plane: binary, and
    binary again what that leaves."""
    activation_bits: int = 8
    """8, 6 or 4."""
    activations: str = "dynamic"
    """dynamic: scales found at run time; static: scales that training learns."""
    block: int | str = "row"
    """16, 32, 64, 128, 256 or "row": elements of an activation that share an exponent."""
    position_bits: int = 8
    """8, or 32 for float position and type tables."""
    table_scales: str = "fp16"
    """fp16, or fp32: what the word table's scales, one a token, are stored in."""
    parameters: str = "fp16"
    """fp16 or fp32: what biases and norms are stored in."""
    ffn_activation: str = "keep"
    """keep: what the model has; relu: the pass relu-ffn replaces GELU before training, as the paper does at 4 bits."""
    budget_mib: float | None = None
    """MiB that the stored weights may take; then some are binary, some ternary."""
    scores: str = ""
    """A file of `bqc sensitivity` with the scores that a budget is spent by."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    note: ClassVar[str] = (
        "signs need training (bqc train --scheme binarybert): untrained, the model says little about its task"
    )
    """What `bqc compile` says of a model that training did not prepare."""

    def __post_init__(self) -> None:
        self._choose()
        if self.ffn_activation not in ("keep", "relu"):
            raise BqcError(f"FFNs have no activation {self.ffn_activation}; use keep or relu")
        if self.scores and self.budget_mib is None:
            raise BqcError("scores say how to spend a budget; give budget_mib (--budget-mib) too")

    def plan(self, recipe: str | None = None, where: str = "recipe") -> list[ir.passes.InPlacePass]:
        """Passes that end with a plan on the model: from the options, or from a recipe's text."""
        if recipe is not None:
            return [PlanRecipe(recipe, where)]
        return [
            *([ReluFfn()] if self.ffn_activation == "relu" else []),
            *([AnnotateSensitivity(scores=self.scores)] if self.scores else []),
            self._choose(),
        ]

    def lower(self) -> list[ir.passes.InPlacePass]:
        """Passes from a planned float model to the finished one."""
        return lowering(-1.0)

    def simulate(self) -> list[ir.passes.InPlacePass]:
        """Passes from a planned float model to the graph that training runs: its weights are still float."""
        return simulation(-1.0)

    def recipe(self, **settings: Any) -> Recipe:
        """How `bqc train` trains for it."""
        from bqc.train.recipe import Recipe

        return Recipe.ternary_split(**settings) if self.weights == "split" else Recipe.two_stage(**settings)

    def bounds(self, plan: Plan) -> dict[str, Any]:
        """None: weights that no training prepared for this have little to do with the float ones."""
        return {}

    def spent(self, model: ir.Model) -> Spent | None:
        """How a model planned by these options uses the budget; None without one."""
        return None if self.budget_mib is None else spent(model, self.budget_mib)

    def _choose(self) -> PlanBinarybert:
        return PlanBinarybert(
            weights=self.weights,
            activation_bits=self.activation_bits,
            activations=self.activations,
            block=self.block,
            position_bits=self.position_bits,
            table_scales=self.table_scales,
            parameters=self.parameters,
            budget_mib=self.budget_mib,
            include=tuple(self.include),
            exclude=tuple(self.exclude),
        )

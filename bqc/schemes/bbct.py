"""`bbct`: block-wise power-of-two quantisation of the whole transformer, without retraining.

Source: Dong, Chen, "Blockwise compression of transformer-based models without retraining" (arXiv
2303.09184), abstract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.formats import BlockShift
from bqc.passes._weights import check_formats
from bqc.passes.annotate_sensitivity import AnnotateSensitivity
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.plan_recipe import PlanRecipe
from bqc.plan import Plan
from bqc.schemes.lowering import lowering, simulation

__all__ = ["Bbct"]


@dataclass(frozen=True)
class Bbct:
    """Options of the scheme; see docs/schemes/bbct.md."""

    weight_bits: int = 8
    """8, 6, 4, 3 or 2, for the encoder's linears."""
    embedding_bits: int = 0
    """8, 6, 4, 3 or 2 for the lookup tables; 0 takes weight_bits."""
    block: int | str = 64
    """16, 32, 64, 128, 256 or "row"."""
    block_fallback: str = "pad"
    """error, pad, shrink or keep, where a row is no whole number of blocks."""
    max_error: float | None = None
    """Weights whose relative squared error is larger stay at 8 bits."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_formats((self.weight_bits, self.embedding_bits or self.weight_bits), self.block)
        if self.block == "tensor":
            raise BqcError(
                "one exponent a tensor ties rows of a batch together; use a block of at most a row"
            )
        if self.max_error is not None and not self.max_error > 0:
            raise BqcError(
                f"max_error is {self.max_error:g}; it is a relative squared error above 0, like 0.01"
            )

    def plan(self, recipe: str | None = None, where: str = "recipe") -> list[ir.passes.InPlacePass]:
        """Passes that end with a plan on the model: from the options, or from a recipe's text."""
        if recipe is not None:
            return [PlanRecipe(recipe, where)]
        bits = tuple(sorted({8, self.weight_bits, self.embedding_bits or self.weight_bits}, reverse=True))
        choose = PlanBbct(
            weight_bits=self.weight_bits,
            embedding_bits=self.embedding_bits,
            block=self.block,
            fallback=self.block_fallback,
            max_error=self.max_error,
            include=tuple(self.include),
            exclude=tuple(self.exclude),
        )
        return [AnnotateSensitivity(bits, self.block), choose]

    def lower(self) -> list[ir.passes.InPlacePass]:
        """Passes from a planned float model to the finished one."""
        return lowering()

    def simulate(self) -> list[ir.passes.InPlacePass]:
        """Passes from a planned float model to the graph that training runs: its weights are still float."""
        return simulation()

    def bounds(self, plan: Plan) -> dict[str, Any]:
        """What `bqc verify` holds a model compiled by this plan to, on generated inputs."""
        if not all(isinstance(fmt, BlockShift) for fmt in plan.weights.values()):
            return {}  # a recipe's other formats, which may have little to do with the float weights
        few = any(fmt.bits < 6 for fmt in plan.weights.values())
        return {"cosine_min": 0.8 if few else 0.97, "argmax_agreement_min": 0.7 if few else 0.9}

"""What a pass promises about what a model computes: data beside the code, shown by ``bqc opt --list-passes``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Contract", "contract_of", "together"]


@dataclass(frozen=True)
class Contract:
    """The class attribute ``contract`` of a pass.

    Attributes:
        numerics: ``exact``, the same bits; ``ulp``, rounding only (where the graph is quantised, a value on the border
            of two codes, or of two fp16 numbers, may take the other); ``lossy``, within ``cosine_min``.
        cosine_min: the lowest cosine of any row of an output before and after a lossy pass.
        idempotent: run again at once, the pass changes nothing.
        but_hidden: outputs of tokens may change at places that the attention mask hides.
    """

    numerics: Literal["exact", "ulp", "lossy"]
    cosine_min: float | None = None
    idempotent: bool = True
    but_hidden: bool = False

    def __post_init__(self) -> None:
        if (self.numerics == "lossy") != (self.cosine_min is not None):
            raise ValueError("a lossy contract has a bound, cosine_min, and no other has")

    def __str__(self) -> str:
        bound = "" if self.cosine_min is None else f" (cosine {self.cosine_min:g})"
        return f"{self.numerics}{bound}{' but at hidden places' if self.but_hidden else ''}"


def contract_of(one: Any) -> Contract | None:
    """The contract of a pass or of its class; None where it states none, as a pass of somebody else's may."""
    stated = getattr(one, "contract", None)
    return stated if isinstance(stated, Contract) else None


def together(contracts: Iterable[Contract | None]) -> Contract:
    """What several passes in a row promise; one that states nothing promises nothing."""
    stated = [Contract("lossy", cosine_min=-1.0) if one is None else one for one in contracts]
    bounds = [one.cosine_min for one in stated if one.cosine_min is not None]
    but_hidden = any(one.but_hidden for one in stated)
    if bounds:
        return Contract("lossy", cosine_min=min(bounds), but_hidden=but_hidden)
    rounding = any(one.numerics == "ulp" for one in stated)
    return Contract("ulp" if rounding else "exact", but_hidden=but_hidden)

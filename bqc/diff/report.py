"""What a comparison found, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bqc.diff.drift import Drift
from bqc.diff.nodes import NodeChange, SignatureChange
from bqc.ir.anatomy import EMBEDDING, HEAD

__all__ = ["SCHEMA_VERSION", "DiffReport", "Side", "WeightChange", "layer_order"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        path: its file; empty for a model in memory.
        kind: ``float`` or ``compiled``.
        canonical: whether it was imported before it was compared.
        nodes: of the graph that was compared.
        weight_bytes: of the constants as stored.
        file_bytes: of the file and its data; None for a model in memory.
    """

    path: str
    kind: str
    canonical: bool
    nodes: int
    weight_bytes: int
    file_bytes: int | None


@dataclass(frozen=True)
class WeightChange:
    """A weight that differs, or that only one model has.

    Attributes:
        kind: ``changed`` (other numbers), ``format`` (the same weight in another format), ``requantised`` (another
            format and not the same weight, or one where that cannot be told), ``shape``, ``added``, ``removed``.
        layer, role: where in the anatomy.
        a, b: names.
        format_a, format_b: number formats for people.
        shape: of the weight.
        bytes_a, bytes_b: stored, scales included.
        different, elements: how many numbers differ, of how many; for ``format`` and ``requantised`` how many
            codes are not those of the float weight.
        relative, largest: error relative to the numbers, and largest absolute error.
        index, values: where the largest error is (or the first wrong code), and both numbers there.
        note: why the numbers were not compared.
    """

    kind: str
    layer: str
    role: str
    a: str
    b: str
    format_a: str = ""
    format_b: str = ""
    shape: list[int] = field(default_factory=list)
    bytes_a: int = 0
    bytes_b: int = 0
    different: int = 0
    elements: int = 0
    relative: float = 0.0
    largest: float = 0.0
    index: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class DiffReport:
    """A comparison of two models.

    Attributes:
        a, b: the models.
        signature: differences of inputs, outputs, opsets and functions.
        nodes: differences of nodes.
        weights: weights that differ.
        weights_same: pairs of weights that do not.
        costs: rows of what the models cost, by kind.
        drift: how far tensors are apart down the graph, if they were run.
        notes: what the reader should know about how the comparison was made.
    """

    a: Side
    b: Side
    signature: list[SignatureChange]
    nodes: list[NodeChange]
    weights: list[WeightChange]
    weights_same: int
    costs: list[dict[str, Any]]
    drift: Drift | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.signature or self.nodes or self.weights)

    def layers(self) -> list[str]:
        """Layers in which anything differs, in order; the empty one is outside the anatomy."""
        found = {change.layer for change in self.nodes} | {change.layer for change in self.weights}
        return sorted(found, key=layer_order)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"same": self.same, **asdict(self)}


def layer_order(name: str) -> tuple[int, int]:
    """Embedding, layers by number, head, then what is outside."""
    return (1, int(name)) if name.isdecimal() else ({EMBEDDING: 0, HEAD: 2}.get(name, 3), 0)

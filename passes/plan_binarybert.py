"""The plan of scheme `binarybert`: signs for the encoder's weights, power-of-two blocks for its activations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats import Binary, BlockShift, Ternary
from bqc.formats.stored import WeightFormat
from bqc.ir.anatomy import TABLE_ROLES, encoder, role
from bqc.passes._graph import key_of
from bqc.passes._points import PER_HEAD, points_of, readers_of
from bqc.passes._weights import check_formats, tied_tables, weight_inputs
from bqc.plan import Plan, matching

__all__ = ["PlanBinarybert"]

WEIGHTS: dict[str, WeightFormat] = {
    "split": Ternary(),  # until training splits them
    "ternary": Ternary(),
    "binary": Binary(),
    "two-plane": Binary(planes=2),
}
_LAST = ("head.transform", "head")


@dataclass(frozen=True)
class PlanBinarybert(ir.passes.InPlacePass):
    """Choose formats for scheme `binarybert` and write the plan onto the model.

    Linears have a scale a matrix, the word table one a token. Position and type tables, and the layers after the
    pooler, keep 8 bits; so does a word table that is a decoder too. Source: BinaryBERT (arXiv 2012.15701), whose
    activations have one scale a tensor; ours have one a token and block.

    Raises:
        BqcError: there are no such weights, bits or block.
    """

    contract = Contract("exact")

    weights: str = "split"
    """split (ternary ones, which training makes the sum of two binary ones), ternary, binary, or two-plane (binary, and
    binary again what that leaves)."""
    activation_bits: int = 8
    """8, 6 or 4, for what these weights and attention read."""
    block: int | str = "row"
    """16, 32, 64, 128, 256 or row: elements of an activation that share an exponent."""
    position_bits: int = 8
    """8, or 32 for float position and type tables, as published."""
    include: tuple[str, ...] = ()
    """Patterns of the weights to quantise, role or layer:role with * and ?; empty takes all."""
    exclude: tuple[str, ...] = ()
    """Patterns of the weights that stay float."""

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise BqcError(f"there are no {self.weights} weights; use one of {', '.join(WEIGHTS)}")
        if self.activation_bits not in (8, 6, 4):
            raise BqcError(f"activations have no {self.activation_bits} bits; use 8, 6 or 4")
        if self.position_bits not in (8, 32):
            raise BqcError(f"position tables have no {self.position_bits} bits; use 8 or 32")
        check_formats((self.activation_bits,), self.block)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = encoder(model)
        plan = Plan("binarybert")
        inputs = list(weight_inputs(model))
        keys = {key_of(node) for node, _, _ in inputs}
        chosen = matching(keys, self.include, "--include") if self.include else keys
        chosen = chosen - matching(keys, self.exclude, "--exclude")
        tied = {weight for pair in tied_tables(model).items() for weight in pair}
        for node, weight, _ in inputs:
            key, kind = key_of(node), role(node) or ""
            if key not in chosen:
                plan.kept[key] = "float: excluded"
            elif self.position_bits == 32 and kind in TABLE_ROLES[1:]:
                plan.kept[key] = "float: position_bits is 32"
            else:
                plan.weights[key] = self._weight(kind, found.head_dim, tied=weight in tied)
        for point in points_of(model, found):
            readers = readers_of(point, found.layers)
            eight = any(isinstance(plan.weights.get(reader), BlockShift) for reader in readers)
            group = found.head_dim if point.split(":")[1] in PER_HEAD else 0
            plan.activations[point] = BlockShift(8 if eight else self.activation_bits, self.block, group)
        plan.attach(model)
        return ir.passes.PassResult(model, True)

    def _weight(self, kind: str, head_dim: int, *, tied: bool) -> WeightFormat:
        if tied or kind in _LAST or kind in TABLE_ROLES[1:]:
            return BlockShift(8, self.block)
        signs = WEIGHTS[self.weights]
        assert isinstance(signs, Binary | Ternary), "formats of signs"
        if kind in TABLE_ROLES:
            return replace(signs, span="row")
        # The context arrives in blocks of one head.
        return replace(signs, group=head_dim) if kind == "attention.output" else signs

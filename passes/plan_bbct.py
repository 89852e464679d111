"""The plan of scheme `bbct`: block-wise power-of-two integers for every weight and every intermediate."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats import BlockShift
from bqc.ir.anatomy import TABLE_ROLES, Encoder, encoder, role
from bqc.passes._graph import key_of
from bqc.passes._points import PER_HEAD, points_of, readers_of
from bqc.passes._weights import check_activations, check_formats, require_whole, tied_tables, weight_inputs
from bqc.passes.annotate_sensitivity import SENSITIVITY_KEY
from bqc.plan import Plan, matching

__all__ = ["PlanBbct"]

_EIGHT_BITS = ("head",)
FALLBACKS = ("error", "pad", "shrink", "keep")


@dataclass(frozen=True)
class PlanBbct(ir.passes.InPlacePass):
    """Choose formats for scheme `bbct` and write the plan onto the model.

    The last layer, which is small, always has 8 bits. A weight that several layers share is listed for each of them, in
    one format. So is a decoder that is the word table transposed, with ``embedding_bits``; where none are asked for
    both have 8, as last layers have: it is half of what a 4-bit table and an 8-bit decoder of its own would take.
    Source: BBCT, abstract (every member of the transformer).

    Raises:
        BqcError: there are no such bits, block or fallback.
    """

    contract = Contract("exact")

    weight_bits: int = 8
    """8, 6, 4, 3 or 2, for the encoder's linears."""
    embedding_bits: int = 0
    """8, 6, 4, 3 or 2 for the lookup tables; 0 takes weight_bits."""
    activation_bits: int = 8
    """8, 6 or 4, for what weights and products read."""
    block: int | str = 64
    """16, 32, 64, 128, 256, row or tensor: elements that share an exponent, of weights and activations."""
    fallback: str = "pad"
    """For rows that are no whole number of blocks. pad: the last block is shorter; shrink: the largest smaller
    block that fits; keep: the weight stays float; error."""
    max_error: float | None = None
    """Weights whose score exceeds it get 8 bits; annotate-sensitivity writes the scores."""
    include: tuple[str, ...] = ()
    """Patterns of the weights to quantise, role or layer:role with * and ?; empty takes all."""
    exclude: tuple[str, ...] = ()
    """Patterns of the weights that stay float."""
    float_points: tuple[str, ...] = ()
    """Points (patterns) that stay float, to attribute a loss; not for deployment."""

    def __post_init__(self) -> None:
        check_formats((self.weight_bits, self.embedding_bits or self.weight_bits), self.block)
        check_activations(self.activation_bits, self.block)
        if self.fallback not in FALLBACKS:
            raise BqcError(f"block fallback {self.fallback!r} is unknown; use one of {', '.join(FALLBACKS)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        anatomy = encoder(model)
        require_whole(model)
        plan = Plan("bbct")
        inputs = list(weight_inputs(model))
        nodes = {key_of(node): (node, weight, axis) for node, weight, axis in inputs}
        chosen = self._chosen(set(nodes))
        tables = tied_tables(model)
        readers = {weight: node for node, weight, _ in inputs if weight in tables.values()}
        lookups = {
            key_of(node): readers[table]
            for node, weight, _ in inputs
            if (table := tables.get(weight, weight)) in readers
        }
        for key, (node, weight, axis) in nodes.items():
            if key not in chosen:
                plan.kept[key] = "float: excluded"
                continue
            assert weight.const_value is not None, "weight_inputs yields initializers"
            length = int(weight.const_value.shape.numpy()[axis])
            lookup = lookups.get(key)
            self._weight(plan, key, lookup or node, length, anatomy.head_dim, tied=lookup is not None)
        self._activations(plan, model, anatomy)
        plan.attach(model)
        return ir.passes.PassResult(model, True)

    def _chosen(self, keys: set[str]) -> set[str]:
        chosen = matching(keys, self.include, "--include") if self.include else set(keys)
        return chosen - matching(keys, self.exclude, "--exclude")

    def _weight(self, plan: Plan, key: str, node: ir.Node, length: int, head_dim: int, *, tied: bool) -> None:
        kind = role(node)
        bits = self.weight_bits
        if kind in TABLE_ROLES:
            bits = self.embedding_bits or (8 if tied else self.weight_bits)
        if kind in _EIGHT_BITS:
            bits = 8
        block = self._fit(key, length, plan)
        if block is None:
            return
        if bits < 8 and self.max_error is not None:
            scores = json.loads(node.metadata_props.get(SENSITIVITY_KEY, "{}"))
            error = scores.get(str(BlockShift(bits, self.block)))
            if error is None:
                raise BqcError(
                    "--max-error needs scores: run annotate-sensitivity with the same bits and block first"
                )
            if error > self.max_error:
                plan.kept[key] = f"8 bits: its error {error:.3g} at {bits} bits exceeds {self.max_error:g}"
                bits = 8
        # The context arrives in blocks of one head, and both operands of a product share their blocks.
        group = head_dim if kind == "attention.output" else 0
        plan.weights[key] = BlockShift(bits, block, group)

    def _fit(self, key: str, length: int, plan: Plan) -> int | str | None:
        if isinstance(self.block, str) or length % self.block == 0 or self.fallback == "pad":
            return self.block
        if self.fallback == "keep":
            plan.kept[key] = f"float: its rows of {length} are no whole number of blocks of {self.block}"
            return None
        smaller = [b for b in (128, 64, 32, 16) if b < self.block and length % b == 0]
        if self.fallback == "shrink" and smaller:
            return smaller[0]
        raise BqcError(
            f"{key}: rows of {length} are no whole number of blocks of {self.block}"
            f"{' or fewer' if self.fallback == 'shrink' else ''}; use --block-fallback pad or keep, or another --block"
        )

    def _activations(self, plan: Plan, model: ir.Model, found: Encoder) -> None:
        points = points_of(model, found)
        off = matching(points, self.float_points, "float_points")
        for point in points:
            if point in off:
                continue
            # A point takes the block of the weights that read it, so that products can run on integers.
            known = [
                plan.weights[reader] for reader in readers_of(point, found.layers) if reader in plan.weights
            ]
            block = known[0].block if known and isinstance(known[0], BlockShift) else self.block
            group = found.head_dim if point.split(":")[1] in PER_HEAD else 0
            # Softmax has codes of its own, which are always of 8 bits.
            bits = 8 if point.endswith(":attention.softmax") else self.activation_bits
            plan.activations[point] = BlockShift(bits, block, group)

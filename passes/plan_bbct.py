"""The plan of scheme `bbct`: block-wise power-of-two integers for every weight and every intermediate."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats import BlockShift
from bqc.ir.anatomy import TABLE_ROLES, encoder, role
from bqc.passes._graph import key_of
from bqc.passes._weights import check_formats, weight_inputs
from bqc.passes.annotate_sensitivity import SENSITIVITY_KEY
from bqc.plan import Plan, matching

__all__ = ["LAYER_POINTS", "PlanBbct"]

LAYER_POINTS = (
    "attention.input",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.softmax",
    "attention.context",
    "attention.norm",
    "ffn.input",
    "ffn.gelu",
    "ffn.norm",
)
"""Quantisation points of a layer."""

_BEFORE = ("embedding:embedding.norm", "embedding:embedding.projection")
_AFTER = ("head:head.input", "head:pooler", "head:head.transform", "head:head.norm")
"""Quantisation points outside the layers."""

_PER_HEAD = ("attention.query", "attention.key", "attention.value", "attention.context")
_EIGHT_BITS = ("head",)
FALLBACKS = ("error", "pad", "shrink", "keep")


@dataclass(frozen=True)
class PlanBbct(ir.passes.InPlacePass):
    """Choose formats for scheme `bbct` and write the plan onto the model.

    The last layer, which is small, always has 8 bits. A weight that several layers share is listed for each of them, in
    one format. Source: BBCT, abstract (every member of the transformer).

    Raises:
        BqcError: there are no such bits, block or fallback.
    """

    contract = Contract("exact")

    weight_bits: int = 8
    """8, 6, 4 or 2, for the encoder's linears."""
    embedding_bits: int = 0
    """8, 6, 4 or 2 for the lookup tables; 0 takes weight_bits."""
    activation_bits: int = 8
    """8, 6, 4 or 2, for what weights and products read."""
    block: int | str = 64
    """16, 32, 64, 128, 256, row or tensor: elements that share an exponent, of weights and activations."""
    fallback: str = "pad"
    """For rows that are no whole number of blocks. pad: the last block is shorter; shrink: the largest smaller block
    that fits; keep: the weight stays float; error."""
    max_error: float | None = None
    """Weights whose score exceeds it get 8 bits; annotate-sensitivity writes the scores."""
    include: tuple[str, ...] = ()
    """Patterns of the weights to quantise, role or layer:role with * and ?; empty takes all."""
    exclude: tuple[str, ...] = ()
    """Patterns of the weights that stay float."""
    float_points: tuple[str, ...] = ()
    """Points (patterns) that stay float, to attribute a loss; not for deployment."""

    def __post_init__(self) -> None:
        check_formats(
            (self.weight_bits, self.embedding_bits or self.weight_bits, self.activation_bits), self.block
        )
        if self.fallback not in FALLBACKS:
            raise BqcError(f"block fallback {self.fallback!r} is unknown; use one of {', '.join(FALLBACKS)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        anatomy = encoder(model)
        plan = Plan("bbct")
        nodes = {key_of(node): (node, weight, axis) for node, weight, axis in weight_inputs(model)}
        chosen = self._chosen(set(nodes))
        for key, (node, weight, axis) in nodes.items():
            if key not in chosen:
                plan.kept[key] = "float: excluded"
                continue
            assert weight.const_value is not None, "weight_inputs yields initializers"
            length = int(weight.const_value.shape.numpy()[axis])
            self._weight(plan, key, node, length, anatomy.head_dim)
        self._activations(plan, model, anatomy.layers, anatomy.head_dim)
        plan.attach(model)
        return ir.passes.PassResult(model, True)

    def _chosen(self, keys: set[str]) -> set[str]:
        chosen = matching(keys, self.include, "--include") if self.include else set(keys)
        return chosen - matching(keys, self.exclude, "--exclude")

    def _weight(self, plan: Plan, key: str, node: ir.Node, length: int, head_dim: int) -> None:
        kind = role(node)
        bits = self.weight_bits
        if kind in TABLE_ROLES:
            bits = self.embedding_bits or self.weight_bits
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

    def _activations(self, plan: Plan, model: ir.Model, layers: int, head_dim: int) -> None:
        present = {key_of(node) for node in model.graph}
        points = [*_BEFORE, *(f"{i}:{p}" for i in range(layers) for p in LAYER_POINTS), *_AFTER]
        points = [p for p in points if p in present]
        if "head:head.norm" in points:
            # The activation before a LayerNormalization is not read by a linear.
            points.remove("head:head.transform")
        off = matching(points, self.float_points, "float_points")
        # A point takes the block of the weights that read it, so that products can run on integers.
        for point in points:
            if point in off:
                continue
            layer, kind = point.split(":")
            block = self._point_block(plan, layer, kind, layers)
            plan.activations[point] = BlockShift(
                self.activation_bits, block, head_dim if kind in _PER_HEAD else 0
            )

    def _point_block(self, plan: Plan, layer: str, kind: str, layers: int) -> int | str:
        following = int(layer) + 1 if layer.isdigit() else 0
        head = ("head:pooler", "head:head.transform", "head:head")
        readers: dict[str, tuple[str, ...]] = {
            "embedding.norm": ("embedding:embedding.projection", "0:attention.query"),
            "embedding.projection": ("0:attention.query",),
            "attention.input": (f"{layer}:attention.query",),
            "attention.norm": (f"{layer}:ffn.intermediate",),
            "ffn.input": (f"{layer}:ffn.intermediate",),
            "ffn.gelu": (f"{layer}:ffn.output",),
            "ffn.norm": (f"{following}:attention.query",) if following < layers else head,
            "head.input": head,
            "pooler": ("head:head.transform", "head:head"),
            "head.transform": ("head:head",),
            "head.norm": ("head:head",),
        }
        known = [plan.weights[reader] for reader in readers.get(kind, ()) if reader in plan.weights]
        return known[0].block if known else self.block

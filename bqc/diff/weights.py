"""The weights of two models: which is which, and whether they are the same numbers in whatever format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bqc.diff.alignment import Alignment
from bqc.diff.hashing import operator_name
from bqc.diff.view import NOWHERE, Label, View
from bqc.formats.stored import StoredFormat, stored_format
from bqc.inspect import FORMAT_KEY, stated_elements
from bqc.ir.structure import is_small
from bqc.passes._graph import PART_KEY

__all__ = ["Weight", "match_weights", "weights_of"]

Array = NDArray[Any]

_ROWS = ("codes", "rows", "signs")
"""Parts stored with the matrix's own rows first; the others are stored for their kernel."""
_TILED_LOOKUPS = ("BlockGatherTiles", "EmbeddingLayerNormTiles", "HalfGatherTiles", "IndexGatherTiles")
"""What reads a table that is stored for the kernel of a linear."""


@dataclass(eq=False)
class Weight:
    """One constant, or the several that a quantised weight is stored in.

    A table that is also read as the weight of a linear is two: the matrix and its transpose.

    Attributes:
        value: the initializer, or the first of them.
        format: text of the number format, or the element type.
        shape: of the weight itself, as the float graph has it.
        uses: (node, slot) that read it.
        parts: part -> tensor of a quantised weight.
        stored: bytes, scales included; 0 of a matrix that is stored as another's transpose.
    """

    value: ir.Value
    format: str
    shape: tuple[int, ...]
    uses: list[tuple[ir.Node, int]]
    tensor: ir.TensorProtocol
    stored: int
    parts: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    turned: bool = False
    """Whether the parts hold the transpose [N, K] of the weight [K, N]."""
    twin: bool = False
    """Whether the parts belong to another weight, whose transpose this one is."""

    @property
    def name(self) -> str:
        """Of the first initializer."""
        return self.value.name or ""

    @property
    def small(self) -> bool:
        """Is it a shape, an axis or a scale rather than a weight?"""
        return not self.parts and is_small(self.tensor)

    @property
    def known_format(self) -> StoredFormat | None:
        """The format of a quantised weight."""
        return stored_format(self.format) if self.parts else None

    @property
    def words(self) -> str:
        """The format for people."""
        known = self.known_format
        return self.format if known is None else known.words

    def label(self, view: View) -> Label:
        """Layer and role: of the constant, or of what reads it where the constant is another weight's too."""
        return view.label(self.uses[0][0]) if self.twin else view.label_of(self.value)

    def arrays(self) -> dict[str, Array]:
        """The stored parts."""
        return {part: np.asarray(tensor.numpy()) for part, tensor in self.parts.items()}

    def numbers(self) -> Array | None:
        """The weight in its own shape; None if its format is not known."""
        if not self.parts:
            return np.asarray(self.tensor.numpy())
        known = self.known_format
        if known is None:
            return None
        rows, columns = self.shape[::-1] if self.turned else self.shape
        matrix = known.restore(self.arrays(), (rows, columns))
        return matrix.T if self.turned else matrix


def weights_of(view: View) -> list[Weight]:
    """Every constant that a node reads or that is an output, once, quantised ones with their scales."""
    found: dict[tuple[ir.Value, bool], Weight] = {}
    counted: set[ir.Value] = set()
    for node in view.nodes:
        current: Weight | None = None
        for slot, value in enumerate(view.reads[node]):
            tensor = None if value is None else view.constants.get(value)
            if value is None or tensor is None:
                continue
            if FORMAT_KEY not in value.metadata_props:
                one = found.setdefault((value, False), _plain(value, tensor))
                one.uses.append((node, slot))
                continue
            if stated_elements(value):
                made = _quantised(view, node, value, tensor)
                made.twin = (value, not made.turned) in found
                current = found.setdefault((value, made.turned), made)
                current.uses.append((node, slot))
            if current is not None and value.metadata_props[PART_KEY] not in current.parts:
                current.parts[value.metadata_props[PART_KEY]] = tensor
                current.stored += 0 if value in counted else tensor.nbytes
                counted.add(value)
    for value in view.model.graph.outputs:
        if value in view.constants:
            found.setdefault((value, False), _plain(value, view.constants[value]))
    return list(found.values())


def match_weights(
    a: View, b: View, alignment: Alignment
) -> tuple[list[tuple[Weight, Weight]], tuple[list[Weight], list[Weight]]]:
    """Pairs of weights, by the slots of matched nodes, then by layer and role; and weights without a partner.

    A weight that one model shares and the other repeats is in several pairs. Small constants without a partner
    are left out: the nodes that read them differ, and say so.
    """
    sides = weights_of(a), weights_of(b)
    slots = {use: weight for weight in sides[1] for use in weight.uses}
    pairs: dict[tuple[Weight, Weight], None] = {}
    for weight in sides[0]:
        for node, slot in weight.uses:
            twin = alignment.partner.get(node)
            if twin is not None and operator_name(node) == operator_name(twin) and (twin, slot) in slots:
                pairs[weight, slots[twin, slot]] = None
    by_value = {weight.value: weight for weights in sides for weight in weights}
    for one, other in alignment.ends.outputs:
        if one in by_value and other in by_value:
            pairs[by_value[one], by_value[other]] = None
    known = {weight for pair in pairs for weight in pair}
    rest = [[w for w in weights if w not in known and not w.small] for weights in sides]
    ours, theirs = _places(a, rest[0]), _places(b, rest[1])
    for place in ours.keys() & theirs.keys():
        if len(ours[place]) == len(theirs[place]):
            pairs.update(dict.fromkeys(zip(ours[place], theirs[place], strict=True)))
    known = {weight for pair in pairs for weight in pair}
    order = {weight: at for at, weight in enumerate(sides[0])}
    only = [[w for w in weights if w not in known] for weights in rest]
    return sorted(pairs, key=lambda pair: order[pair[0]]), (only[0], only[1])


def _plain(value: ir.Value, tensor: ir.TensorProtocol) -> Weight:
    shape = tuple(int(size) for size in tensor.shape.numpy())
    name = tensor.dtype.name.lower()
    return Weight(value, name, shape, [], tensor, tensor.nbytes)


def _quantised(view: View, node: ir.Node, value: ir.Value, tensor: ir.TensorProtocol) -> Weight:
    """A weight of a format; its shape follows from its elements and from what its node makes of it."""
    elements = stated_elements(value)
    inside = value.metadata_props[PART_KEY] in _ROWS
    made = node.outputs[0].shape
    first, last = tensor.shape[-2] if inside else 0, None if made is None else made[-1]
    if node.op_type.startswith("XnorLinear"):  # its outputs may be bits
        last = elements // (node.attributes.get_int("columns", 0) or elements)
    known = first if inside else last
    count = known if isinstance(known, int) and known else 1
    looked_up = not inside and node.op_type in _TILED_LOOKUPS
    turned = not (inside or looked_up) or any(
        reader.op_type == "Transpose" for reader, _ in view.readers.get(node.outputs[0], [])
    )
    shape = (elements // count, count) if turned or looked_up else (count, elements // count)
    return Weight(value, value.metadata_props[FORMAT_KEY], shape, [], tensor, 0, turned=turned)


def _places(view: View, weights: Iterable[Weight]) -> dict[tuple[Any, ...], list[Weight]]:
    """Labelled weights by layer, role and rank, in the order of their nodes."""
    groups: dict[tuple[Any, ...], list[Weight]] = {}
    for weight in weights:
        label = weight.label(view)
        if label != NOWHERE:
            groups.setdefault((*label, len(weight.shape)), []).append(weight)
    return groups

"""What an encoder's inputs take, told by its canonical graph and kept in the metadata of what is made of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir.anatomy import TABLE_ROLES, nodes_of, role
from bqc.ir.match import is_weight, size_of, walk_back
from bqc.ir.probe import Probe, ProbeError, Sizes

__all__ = [
    "ADDED",
    "HIDDEN",
    "HIDES",
    "INPUTS_KEY",
    "LEAST_SHOWN",
    "MASK",
    "POSITIONS",
    "SHOWN",
    "TOKEN_IDS",
    "TYPES",
    "InputSpec",
    "InputSpecs",
    "as_mask",
    "input_specs",
]

INPUTS_KEY = "bqc.inputs"
"""Metadata key: the JSON of a `InputSpecs`."""

TOKEN_IDS, MASK, TYPES, POSITIONS = "token ids", "mask", "types", "positions"
"""What an input may take."""
SHOWN, HIDDEN, ADDED = "1 at tokens", "1 at padding", "added to scores"
"""How a mask says it; one that is added is 0 at tokens and very low at padding."""
LEAST_SHOWN = -50.0
"""Keys for which a mask input that is added holds less than this are hidden."""
HIDES = -5e3
"""Scores below this are hidden; older exporters add -10000."""

_ROLES = (TOKEN_IDS, MASK, TYPES, POSITIONS)
_FORMS = (SHOWN, HIDDEN, ADDED)
_MOST_TYPES = 16
_LOW = -1e4
_MOVES = frozenset(("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Expand"))


@dataclass(frozen=True)
class InputSpec:
    """What one input takes: `rows` of the table that ids, types or positions look up, the `form` of a mask."""

    role: str
    rows: int = 0
    form: str = SHOWN


@dataclass(frozen=True)
class InputSpecs:
    """Inputs by name, and the tokens of the longest sequence that the tables allow; 0 where none limits it."""

    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    longest: int = 0

    def to_json(self) -> str:
        """As it is kept in the metadata."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of_json(cls, text: str | None) -> InputSpecs:
        """Read back; empty where a model has none.

        Raises:
            BqcError: it is not readable.
        """
        if text is None:
            return cls()
        try:
            found = json.loads(text)
            inputs = {str(name): InputSpec(**takes) for name, takes in found["inputs"].items()}
            counts = [int(found["longest"]), *(int(one.rows) for one in inputs.values())]
            if min(counts) < 0 or not all(
                one.role in _ROLES and one.form in _FORMS for one in inputs.values()
            ):
                raise ValueError("a role, form or count that is none")
            return cls(inputs, counts[0])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BqcError(f"the model's metadata {INPUTS_KEY} is not readable: {text[:80]}") from error


def input_specs(model: ir.Model) -> InputSpecs:
    """What the inputs of an annotated float model take, as far as its tables and its mask tell."""
    inputs: dict[str, InputSpec] = {}
    limits = []
    for node in filter(_is_embedding, model.graph):
        rows, source = size_of(node.inputs[0], 0), _source(node)
        if source is not None:
            kind, before = _kind(node, source), inputs.get(source.name or "")
            inputs[source.name or ""] = InputSpec(kind, rows if before is None else min(rows, before.rows))
            if kind == POSITIONS:
                limits.append(rows)
        elif rows > 2:  # a model without type ids looks a constant up in a table of one or two types
            limits.append(rows - _first_position(model.graph, node.inputs[1]))
    inputs.update(_masks(model, {name: one for name, one in inputs.items() if one.role == TOKEN_IDS}))
    return InputSpecs(inputs, max(min(limits, default=0), 0))


def _is_embedding(node: ir.Node) -> bool:
    """Does it look a table of an embedding up? Those of relative positions limit no sequence."""
    return node.op_type == "Gather" and is_weight(node.inputs[0], 2) and role(node) in (None, *TABLE_ROLES)


def _source(lookup: ir.Node) -> ir.Value | None:
    """The graph input that looks a table up, moved or cast; of words however it is computed, if it is one alone."""
    index = lookup.inputs[1]
    if role(lookup) == TABLE_ROLES[0] and index is not None:
        behind = walk_back(index, ir.Value.is_graph_input)
        return behind[0] if len(behind) == 1 else None
    while index is not None and not index.is_graph_input():
        node = index.producer()
        index = node.inputs[0] if node is not None and node.op_type in _MOVES else None
    return index


def _kind(lookup: ir.Node, source: ir.Value) -> str:
    """By the label; of a second encoder or an embedding that is not recognised by the name, else by the size."""
    kinds = dict(zip(TABLE_ROLES, (TOKEN_IDS, TYPES, POSITIONS), strict=True))
    known = kinds.get(role(lookup) or "")
    if known is not None:
        return known
    if "position" in (source.name or ""):
        return POSITIONS
    return TYPES if size_of(lookup.inputs[0], 0) <= _MOST_TYPES else TOKEN_IDS


def _first_position(graph: ir.Graph, index: ir.Value | None) -> int:
    """The row that the first token looks up: RoBERTa counts from behind its padding id."""
    assert index is not None, "a Gather has an index"
    try:
        probe = Probe([index])
        sizes = Sizes(1, 2).within(graph)
        return max(
            int(found[..., 0].min()) if found.ndim else 0
            for n in (3, 4)
            for found in probe.run(
                {v: _filled(v, sizes, n) for v in graph.inputs if probe.depends_on(v)}, sizes
            )
        )
    except ProbeError:
        return 0


def _filled(value: ir.Value, sizes: Sizes, number: float) -> npt.NDArray[np.generic]:
    dtype = value.dtype.numpy() if value.dtype else np.dtype(np.int64)
    return np.full(_shape(value, sizes), number, dtype)


def _shape(value: ir.Value, sizes: Sizes) -> tuple[int, ...]:
    between = 0 if value.shape is None else len(value.shape) - 2
    return (sizes.batch, *[1] * between, sizes.sequence)


def _masks(model: ir.Model, ids: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    """Inputs that hide keys, and in which form: found by running what is added to the scores."""
    added = dict.fromkeys(v for node in nodes_of(model, role="attention.scores") for v in _biases(node))
    found: dict[str, InputSpec] = {}
    for bias in added:
        found.update(_mask(model, bias, ids))
    return found


def _mask(model: ir.Model, bias: ir.Value, ids: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    try:
        probe = Probe([bias])
    except ProbeError:
        return {}
    read = [v for v in model.graph.inputs if probe.depends_on(v)]
    sizes = Sizes(2, 4).within(model.graph)
    for token in (5, 6):
        known = {v: _filled(v, sizes, token % max(ids[v.name or ""].rows, 1)) for v in read if v.name in ids}
        masks = [v for v in read if v not in known]
        for forms in itertools.product(*map(_forms, masks)):
            given = list(zip(masks, forms, strict=True))
            if _hide(probe, known, given, sizes):
                return {v.name or "": InputSpec(MASK, form=form) for v, form in given}
    return {}


def _biases(scores: ir.Node) -> Iterator[ir.Value]:
    for value in scores.inputs if scores.op_type == "Add" else ():
        made = value.producer() if value is not None else None
        if value is not None and made is not None and role(made) == "attention.mask":
            yield value


def _forms(mask: ir.Value) -> tuple[str, ...]:
    floats = mask.dtype is not None and mask.dtype.is_floating_point()
    # Very low numbers hide where ones do, too.
    return (SHOWN, HIDDEN, ADDED) if floats else (SHOWN, HIDDEN)


def _hide(
    probe: Probe,
    known: Mapping[ir.Value, npt.NDArray[np.generic]],
    masks: Sequence[tuple[ir.Value, str]],
    sizes: Sizes,
) -> bool:
    """Is nothing hidden when all masks show all, and the last key alone when one of them hides it?"""
    whole = np.ones((sizes.batch, sizes.sequence), np.int64)
    most = whole.copy()
    most[:, -1] = 0
    try:
        for hiding in (None, *(v for v, _ in masks)):
            feeds = {v: as_mask(most if v is hiding else whole, form, _shape(v, sizes)) for v, form in masks}
            typed = {v: a.astype(v.dtype.numpy() if v.dtype else np.int64) for v, a in feeds.items()}
            (found,) = probe.run({**known, **typed}, sizes)
            hidden = np.broadcast_to(found <= HIDES, (*found.shape[:-1], sizes.sequence))
            if hidden[..., :-1].any() or hidden[..., -1].all() != (hiding is not None):
                return False
    except ProbeError:
        return False
    return True


def as_mask(shown: npt.NDArray[np.int64], form: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """`shown[B, S]`, 1 at tokens, in another form and shape."""
    made = {SHOWN: shown, HIDDEN: 1 - shown, ADDED: np.where(shown, 0.0, _LOW)}[form]
    return made.reshape(shape)

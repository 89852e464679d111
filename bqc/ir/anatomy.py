"""Anatomy: which layer and which role every node and weight of the encoder has.

Labels live in `metadata_props` of nodes and of initializer values (`bqc.layer`, `bqc.role`); everything
downstream (plans, passes, reports) addresses the model through them and never through node names. This module
owns the vocabulary of labels and reads them back; `passes/annotate_anatomy.py` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx_ir as ir

from bqc.errors import BqcError

__all__ = [
    "ANATOMY_KEY",
    "EMBEDDING",
    "HEAD",
    "LAYER_KEY",
    "LINEAR_ROLES",
    "ROLES",
    "ROLE_KEY",
    "SOURCE_KEY",
    "TABLE_ROLES",
    "VALUE_KEY",
    "Encoder",
    "FloatPart",
    "encoder",
    "label",
    "layer",
    "nodes_of",
    "record",
    "role",
    "value_key",
    "weights_of",
]

LAYER_KEY = "bqc.layer"
ROLE_KEY = "bqc.role"
SOURCE_KEY = "bqc.source"
VALUE_KEY = "bqc.value"
"""Metadata of an operator that stands for several nodes: the `value_key` of the one whose value it computes."""
ANATOMY_KEY = "bqc.anatomy"

EMBEDDING = "embedding"
HEAD = "head"

TABLE_ROLES = ("embedding.word", "embedding.type", "embedding.position")
LINEAR_ROLES = (
    "embedding.projection",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "ffn.intermediate",
    "ffn.output",
    "pooler",
    "head.transform",
    "head",
)
ROLES = (
    *TABLE_ROLES,
    "embedding.sum",
    "embedding.norm",
    "embedding.projection",
    "attention.mask",
    "attention.bias",
    "attention.input",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.scores",
    "attention.softmax",
    "attention.context",
    "attention.output",
    "attention.norm",
    "ffn.input",
    "ffn.intermediate",
    "ffn.gelu",
    "ffn.output",
    "ffn.norm",
    "head.input",
    "pooler",
    "head.transform",
    "head.norm",
    "head",
)


def label(item: ir.Node | ir.Value, layer: str, role: str) -> None:
    """Write layer and role on a node or an initializer value."""
    item.metadata_props[LAYER_KEY] = layer
    item.metadata_props[ROLE_KEY] = role


def role(item: ir.Node | ir.Value) -> str | None:
    """The role of a node or an initializer, None where it is not part of the anatomy."""
    return item.metadata_props.get(ROLE_KEY)


def layer(item: ir.Node | ir.Value) -> str | None:
    """The layer (`embedding`, `0`, `1`, ..., `head`) of a node or an initializer, or None."""
    return item.metadata_props.get(LAYER_KEY)


def value_key(node: ir.Node) -> str:
    """``layer:role:operator`` of the node of the float graph whose value this node computes."""
    return node.metadata_props.get(VALUE_KEY) or f"{layer(node)}:{role(node)}:{node.op_type}"


def nodes_of(model: ir.Model, layer: str | None = None, role: str | None = None) -> Iterator[ir.Node]:
    """Labelled nodes in graph order, all of them or only those of one layer and/or role."""
    return (node for node in model.graph if _selected(node, layer, role))


def weights_of(model: ir.Model, layer: str | None = None, role: str | None = None) -> Iterator[ir.Value]:
    """Labelled initializers, all of them or only those of one layer and/or role."""
    return (value for value in model.graph.initializers.values() if _selected(value, layer, role))


def _selected(item: ir.Node | ir.Value, layer: str | None, role: str | None) -> bool:
    found = item.metadata_props.get(ROLE_KEY)
    return (
        found is not None
        and (role is None or found == role)
        and (layer is None or item.metadata_props.get(LAYER_KEY) == layer)
    )


@dataclass(frozen=True)
class FloatPart:
    """A part of the encoder that is not in the canonical form, so that nothing compiles it."""

    part: str
    """`layer:role`, or `layer:attention` and `layer:ffn` for the rest of a block."""
    reason: str

    @property
    def layer(self) -> str:
        """The layer it belongs to."""
        return self.part.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.part} ({self.reason})"


@dataclass(frozen=True)
class Encoder:
    """What an annotated model consists of; every count is read from the labels."""

    layers: int
    hidden: int
    heads: int
    head_dim: int
    ffn: int
    vocab: int
    positions: int
    types: int
    norms: int
    gelus: int
    attentions: int
    gelu: str
    mask: bool
    pooler: bool
    head: int
    embedding: int = 0
    """Width of the tables, where it is not that of the layers."""
    relus: int = 0
    float_parts: tuple[FloatPart, ...] = ()
    """What is not recognised, and why."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON reports."""
        return asdict(self)

    def __str__(self) -> str:
        tables = f", embedding {self.embedding}" if self.embedding else ""
        relus = f"{self.relus} Relu, " if self.relus else ""
        # A slim model's heads are together narrower than its hidden state.
        whole = " =" if self.hidden == self.heads * self.head_dim else ","
        return (
            f"{self.layers} layers, hidden {self.hidden}{whole} {self.heads} heads x {self.head_dim}, "
            f"FFN {self.ffn}, vocabulary {self.vocab}{tables}; found {self.norms} LayerNormalization, "
            f"{self.gelus} Gelu ({self.gelu}), {relus}{self.attentions} attentions"
        )


def encoder(model: ir.Model) -> Encoder:
    """Summarise an annotated model; once recorded, the summary holds in every later dialect.

    Raises:
        BqcError: the model carries no anatomy (it was not imported).
    """
    recorded = model.metadata_props.get(ANATOMY_KEY)
    if recorded is not None:
        try:
            fields = json.loads(recorded)
            if not isinstance(fields, dict):
                raise TypeError("it is no object")
            parts = tuple(FloatPart(**part) for part in fields.pop("float_parts", ()))
            return Encoder(**fields, float_parts=parts)
        except (ValueError, TypeError) as error:
            raise BqcError(f"the model's {ANATOMY_KEY} metadata is damaged: {error}") from error
    return _counted(model)


def record(model: ir.Model, layers: int | None = None, float_parts: Iterable[FloatPart] = ()) -> None:
    """Write the summary of an annotated float model into its metadata, where it survives compilation.

    `layers` counts those too that carry no label; by default they are as many as labelled attentions.
    """
    found = _counted(model)
    whole = replace(found, layers=found.layers if layers is None else layers, float_parts=tuple(float_parts))
    model.metadata_props[ANATOMY_KEY] = json.dumps(whole.as_dict(), separators=(",", ":"))


def _counted(model: ir.Model) -> Encoder:
    tables = {name: _matrix(model, EMBEDDING, name) for name in TABLE_ROLES}
    inner = _used(model, "ffn.intermediate")
    query = _used(model, "attention.query")
    split = next((n for n in nodes_of(model, role="attention.query") if n.op_type == "Reshape"), None)
    target = split.inputs[1].const_value if split is not None and split.inputs[1] is not None else None
    if query is None or target is None:
        raise BqcError("the model carries no anatomy labels; import it first (bqc.ir.import_model)")
    heads, head_dim = (int(n) for n in target.numpy()[2:4])
    roles = [(node.op_type, role(node) or "", node) for node in nodes_of(model)]
    gelus = [node for op, _, node in roles if op == "Gelu"]
    heads_out = [w for w in weights_of(model, HEAD, "head") if w.shape is not None and len(w.shape) == 2]
    hidden, width = _dim(query, 0), _dim(tables["embedding.word"], 1)
    return Encoder(
        layers=sum(name == "attention.softmax" for _, name, _ in roles),
        hidden=hidden,
        heads=heads,
        head_dim=head_dim,
        ffn=_dim(inner, 1),
        vocab=_dim(tables["embedding.word"], 0),
        positions=_dim(tables["embedding.position"], 0),
        types=_dim(tables["embedding.type"], 0),
        norms=sum(op == "LayerNormalization" for op, _, _ in roles),
        gelus=len(gelus),
        attentions=sum(op == "Softmax" and name == "attention.softmax" for op, name, _ in roles),
        gelu=gelus[0].attributes.get_string("approximate", "none") or "none" if gelus else "none",
        mask=any(name == "attention.mask" for _, name, _ in roles),
        pooler=any(name == "pooler" for _, name, _ in roles),
        head=_dim(heads_out[-1], 1) if heads_out else 0,
        embedding=0 if width == hidden else width,
        relus=sum(op == "Relu" and name == "ffn.gelu" for op, name, _ in roles),
    )


def _used(model: ir.Model, role: str) -> ir.Value | None:
    """The matrix of the first such linear, by its node: a weight that layers share carries the label of one."""
    product = next((n for n in nodes_of(model, role=role) if n.op_type == "MatMul"), None)
    return product.inputs[1] if product is not None else None


def _matrix(model: ir.Model, layer: str, role: str) -> ir.Value | None:
    found = (w for w in weights_of(model, layer, role) if w.shape is not None and len(w.shape) == 2)
    return next(found, None)


def _dim(value: ir.Value | None, axis: int) -> int:
    if value is None or value.shape is None:
        return 0
    size = value.shape[axis]
    return size if isinstance(size, int) else 0

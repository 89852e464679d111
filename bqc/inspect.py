"""What is in a model file: anatomy, cost by role and layer, bit widths, bytes. The data behind `bqc inspect`.

One report serves float and compiled models. Both carry labels on weights and nodes; a compiled weight also
says its number format and how many weights it stands for, because packed bytes have other shapes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.ir import import_model, is_compiled, load
from bqc.ir.anatomy import (
    EMBEDDING,
    HEAD,
    LINEAR_ROLES,
    ROLES,
    Encoder,
    FloatPart,
    encoder,
    layer,
    nodes_of,
    role,
    weights_of,
)
from bqc.ir.load import STDIN
from bqc.ir.match import stored_dtype
from bqc.ir.text import SUFFIX
from bqc.ops.registry import OPERATORS
from bqc.passes._graph import attributes_of
from bqc.passes._padding import once_a_sequence
from bqc.passes._unfolded import unfolded
from bqc.plan import PLAN_KEY, Plan

__all__ = ["SCHEMA_VERSION", "inspect"]

SCHEMA_VERSION = 1
_QUANTIZING = (
    "BlockQuantize",
    "BlockQuantizeValues",
    "RaggedBlockQuantizeValues",
    "StaticQuantize",
    "StaticQuantizeValues",
)
"""Operators whose attribute `bits` is of their output; of all others it is of a weight."""
_MOVING = ("Gather", "GatherND", "Reshape", "Transpose")
FORMAT_KEY = "bqc.format"
ELEMENTS_KEY = "bqc.elements"


@dataclass(frozen=True)
class _Product:
    """One use of a weight in a linear."""

    layer: str
    role: str
    pair: str
    """Types of the product: what the weight is multiplied by, and itself."""
    once: bool
    """Whether it sees one row a sequence."""


@dataclass(frozen=True)
class _Weight:
    """One stored initializer: what it is for, how many weights it stands for, and its bytes."""

    layer: str
    role: str
    format: str
    elements: int
    matrix: int
    """How many of the elements are multiplied with every token (none for biases, norms and scales)."""
    products: tuple[_Product, ...]
    """Every linear that it is the weight of: layers may share one, and a lookup table be a decoder too."""
    bytes: int


def inspect(model: str | os.PathLike[str] | ir.Model, batch: int = 1, sequence: int = 128) -> dict[str, Any]:
    """Report on a float or compiled model as plain data (JSON-ready).

    Keys: `schema_version`, `model`, `anatomy`, `float_parts` (`part` and `reason` of what no pass compiles or, in
    a compiled model, has compiled), `cost` (parameters and MACs for `batch` x `sequence`), `roles` and `layers` (the
    same by role and by layer), `mac_pairs` (MACs by the types multiplied, codes by their bits), `bit_widths` (bits
    include scales and exponents), `activations` (formats of a compiled model's quantisation points), `bytes` (payload
    is weights, metadata the rest of the file, None for text). A float model object is imported in place.

    Raises:
        BqcError: the file cannot be read, holds no encoder, or states sizes that are no numbers.
    """
    path = None if isinstance(model, ir.Model) or str(model) == STDIN else Path(model)
    loaded = model if isinstance(model, ir.Model) else load(model)
    about = {
        "path": None if path is None else str(path),
        "kind": "compiled" if is_compiled(loaded) else "float",
        "opset": loaded.graph.opset_imports.get("", 0),
        "ir_version": loaded.ir_version,
        "inputs": [v.name for v in loaded.graph.inputs],
        "outputs": [v.name for v in loaded.graph.outputs],
    }
    payload = sum(v.const_value.nbytes for v in loaded.graph.initializers.values() if v.const_value)
    if next(nodes_of(loaded), None) is None:
        import_model(loaded)
    found = encoder(loaded)
    weights = [_weight(value) for value in weights_of(loaded)]
    costs = _costs(loaded, weights, found, batch, sequence)
    return {
        "schema_version": SCHEMA_VERSION,
        "model": about,
        "anatomy": {name: value for name, value in found.as_dict().items() if name != "float_parts"},
        "float_parts": [asdict(part) for part in _float_parts(loaded, found)],
        "cost": {
            "batch": batch,
            "sequence": sequence,
            "parameters": sum(cost.parameters for cost in costs),
            "macs": sum(cost.macs for cost in costs),
        },
        "roles": _summed(costs, "role", lambda cost: cost.role, _by_role),
        "layers": _summed(costs, "layer", lambda cost: cost.layer, _by_layer),
        "mac_pairs": _pairs(costs),
        "bit_widths": _bit_widths(weights),
        "activations": _activations(loaded),
        "bytes": _bytes(path, loaded, payload),
    }


def _float_parts(model: ir.Model, found: Encoder) -> list[FloatPart]:
    """What is not recognised, what the plan keeps float, and what of the rest is multiplied in float."""
    parts = list(found.float_parts)
    if PLAN_KEY in model.metadata_props:
        kept = {key: why.partition(": ") for key, why in Plan.of(model).kept.items()}
        parts += [FloatPart(key, why) for key, (kind, _, why) in kept.items() if kind == "float"]
    return parts + unfolded(model)


@dataclass(frozen=True)
class _Cost:
    """Parameters and multiply-accumulates of one role in one layer."""

    layer: str
    role: str
    parameters: int
    macs: int
    pair: str = ""


def stated_elements(value: ir.Value) -> int:
    """How many weights a part of a packed weight stands for: all for one of its parts, 0 for the others.

    Raises BqcError if the file says no number.
    """
    stated = value.metadata_props.get(ELEMENTS_KEY, "0")
    if not (stated.isdecimal() and stated.isascii() and len(stated) < 20):
        raise BqcError(f"{value.name}: its metadata {ELEMENTS_KEY} should be a number, not {stated[:40]!r}")
    return int(stated)


def _weight(value: ir.Value) -> _Weight:
    tensor = value.const_value
    assert tensor is not None, "labelled weights are initializers"
    stored = stored_dtype(value)
    packed = FORMAT_KEY in value.metadata_props
    elements = stated_elements(value) if packed else tensor.size
    return _Weight(
        layer=layer(value) or "",
        role=role(value) or "",
        format=value.metadata_props.get(FORMAT_KEY, stored.name.lower()),
        elements=elements,
        matrix=elements if packed or len(tensor.shape) >= 2 else 0,
        products=tuple(
            _Product(layer(node) or "", role(node) or "", _multiplied(node, value), _once(node, value))
            for node in value.consumers()
            if role(node) in LINEAR_ROLES
        ),
        bytes=tensor.nbytes if packed else -(-tensor.size * stored.bitwidth // 8),
    )


def _costs(
    model: ir.Model, weights: Iterable[_Weight], found: Encoder, batch: int, sequence: int
) -> list[_Cost]:
    tokens = {place: _rows(model, place, batch, sequence) for place in (HEAD, EMBEDDING)}
    costs = [_Cost(w.layer, w.role, w.elements, 0) for w in weights]
    costs += [
        _Cost(
            use.layer,
            use.role,
            0,
            w.matrix * (batch if use.once else tokens.get(use.layer, batch * sequence)),
            use.pair,
        )
        for w in weights
        for use in w.products
    ]
    product = batch * sequence * sequence * found.heads * found.head_dim
    for i in map(str, range(found.layers)):
        for name in ("attention.scores", "attention.context"):
            costs.append(_Cost(i, name, 0, product, _attended(model, i, name)))
    return costs


def _multiplied(node: ir.Node, weight: ir.Value) -> str:
    """``int8 x BlockShift(8,64)``: the other operand of a product with a weight, and the weight."""
    if node.inputs[0] is weight:  # it is dequantised before it is multiplied
        return "float x float"
    return f"{_type(node.inputs[0])} x {weight.metadata_props.get(FORMAT_KEY, _type(weight))}"


def _once(node: ir.Node, weight: ir.Value) -> bool:
    """Whether a product is known to see one row a sequence."""
    return node.inputs[0] is not weight and once_a_sequence(node)


_ATTENTION = (
    "BlockScores",
    "BlockContext",
    "BlockAttention",
    "RaggedBlockAttention",
    "FloatAttention",
    "RaggedFloatAttention",
)
"""Operators of attention's products."""


def _attended(model: ir.Model, place: str, name: str) -> str:
    """Types of the attention products of a layer."""
    for node in (*nodes_of(model, place, name), *nodes_of(model, place, "attention.context")):
        if node.op_type in _ATTENTION:
            given = dict(zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False))
            if name == "attention.scores" and "q" in given and "key" in given:
                return f"{_type(given['q'])} x {_type(given['key'])}"
            if name == "attention.context" and "values" in given:
                values = _type(given["values"])
                return f"{values if values == 'float' else 'uint8'} x {values}"
        if node.op_type == "MatMul":
            return " x ".join(map(_type, node.inputs))
    return ""


def _type(value: ir.Value | None) -> str:
    """Codes of fewer than 8 bits have a byte each, and are called after their bits."""
    if value is None or value.dtype in (None, ir.DataType.FLOAT):
        return "float"
    return f"int{_bits(value)}" if value.dtype == ir.DataType.INT8 else value.dtype.name.lower()


def _bits(value: ir.Value) -> int:
    """Of codes, as the operator says that makes them."""
    node = value.producer()
    while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None:
        return 8
    stated = attributes_of(node).get("bits" if node.op_type in _QUANTIZING else "out_bits", 8)
    return stated if isinstance(stated, int) else 8


def _activations(model: ir.Model) -> list[dict[str, Any]]:
    """How many points of a role have a format."""
    if PLAN_KEY not in model.metadata_props:
        return []
    counts = Counter((key.partition(":")[2], str(fmt)) for key, fmt in Plan.of(model).activations.items())
    rows = sorted(counts, key=lambda group: (_by_role(group[0]), group[1]))
    return [{"role": name, "format": form, "points": counts[name, form]} for name, form in rows]


def _pairs(costs: Iterable[_Cost]) -> list[dict[str, Any]]:
    sums: dict[str, int] = {}
    for cost in costs:
        if cost.macs:
            sums[cost.pair] = sums.get(cost.pair, 0) + cost.macs
    return [{"types": pair, "macs": sums[pair]} for pair in sorted(sums, key=lambda pair: -sums[pair])]


def _rows(model: ir.Model, place: str, batch: int, sequence: int) -> int:
    """How many rows a layer's linears see: a head after pooling sees one per sequence."""
    for node in nodes_of(model, place):
        shape = node.outputs[0].shape
        if role(node) in LINEAR_ROLES and shape is not None and len(shape) == 2:
            return batch
    return batch * sequence


def _summed(
    costs: Iterable[_Cost], name: str, key: Callable[[_Cost], str], order: Callable[[str], Any]
) -> list[dict[str, Any]]:
    sums: dict[str, list[int]] = {}
    for cost in costs:
        entry = sums.setdefault(key(cost), [0, 0])
        entry[0] += cost.parameters
        entry[1] += cost.macs
    return [
        {name: label, "parameters": sums[label][0], "macs": sums[label][1]}
        for label in sorted(sums, key=order)
    ]


def _bit_widths(weights: Iterable[_Weight]) -> list[dict[str, Any]]:
    """By role and format; `bits` counts every stored byte, so scales and exponents are in it."""
    groups: dict[tuple[str, str], list[int]] = {}
    total = 0
    for w in weights:
        entry = groups.setdefault((w.role, w.format), [0, 0])
        entry[0] += w.elements
        entry[1] += w.bytes
        total += w.bytes
    rows = sorted(groups, key=lambda group: (_by_role(group[0]), group[1]))
    return [
        {
            "role": name,
            "format": form,
            "weights": elements,
            "bits": round(8 * size / elements, 3) if elements else 0.0,
            "bytes": size,
            "share": round(size / total, 4) if total else 0.0,
        }
        for name, form in rows
        for elements, size in [groups[name, form]]
    ]


def _bytes(path: Path | None, model: ir.Model, payload: int) -> dict[str, int | None]:
    if path is None:
        return {"file": None, "payload": payload, "metadata": None}
    beside = {
        path.parent / os.fspath(v.const_value.location)
        for v in model.graph.initializers.values()
        if isinstance(v.const_value, ir.ExternalTensor)
    }
    total = path.stat().st_size + sum(file.stat().st_size for file in beside)
    # A text leaves weights out, or has other bytes for them.
    return {"file": total, "payload": payload, "metadata": None if path.suffix == SUFFIX else total - payload}


def _by_role(name: str) -> tuple[int, str]:
    return (ROLES.index(name) if name in ROLES else len(ROLES), name)


def _by_layer(name: str) -> tuple[int, int]:
    if name.isdecimal():
        return 1, int(name)
    return (0, 0) if name == EMBEDDING else (2, 0)

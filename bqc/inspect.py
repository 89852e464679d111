"""What is in a model file: anatomy, cost by role and layer, bit widths, bytes. The data behind `bqc inspect`.

One report serves float and compiled models. Both carry labels on weights and nodes; a compiled weight also
says its number format and how many weights it stands for, because packed bytes have other shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bqc.ir import import_model, is_compiled, load
from bqc.ir.anatomy import (
    EMBEDDING,
    HEAD,
    LINEAR_ROLES,
    ROLES,
    Encoder,
    encoder,
    layer,
    nodes_of,
    role,
    weights_of,
)
from bqc.ir.load import STDIN
from bqc.ir.match import stored_dtype

__all__ = ["SCHEMA_VERSION", "inspect"]

SCHEMA_VERSION = 1
FORMAT_KEY = "bqc.format"
ELEMENTS_KEY = "bqc.elements"


@dataclass(frozen=True)
class _Weight:
    """One stored initializer: what it is for, how many weights it stands for, and its bytes."""

    layer: str
    role: str
    format: str
    elements: int
    matrix: int
    """How many of the elements are multiplied with every token (none for biases, norms and scales)."""
    bytes: int


def inspect(model: str | os.PathLike[str] | ir.Model, batch: int = 1, sequence: int = 128) -> dict[str, Any]:
    """Report on a float or compiled model as plain data (JSON-ready).

    Keys: `schema_version`, `model`, `anatomy`, `cost` (parameters and MACs for `batch` x `sequence`), `roles`
    and `layers` (the same by role and by layer), `bit_widths` (bits include scales and exponents), `bytes`
    (payload is weights, metadata the rest of the file). A float model object is imported in place.

    Raises:
        BqcError: the file cannot be read or holds no encoder.
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
        "anatomy": found.as_dict(),
        "cost": {
            "batch": batch,
            "sequence": sequence,
            "parameters": sum(cost.parameters for cost in costs),
            "macs": sum(cost.macs for cost in costs),
        },
        "roles": _summed(costs, "role", lambda cost: cost.role, _by_role),
        "layers": _summed(costs, "layer", lambda cost: cost.layer, _by_layer),
        "bit_widths": _bit_widths(weights),
        "bytes": _bytes(path, loaded, payload),
    }


@dataclass(frozen=True)
class _Cost:
    """Parameters and multiply-accumulates of one role in one layer."""

    layer: str
    role: str
    parameters: int
    macs: int


def _weight(value: ir.Value) -> _Weight:
    tensor = value.const_value
    assert tensor is not None, "labelled weights are initializers"
    stored = stored_dtype(value)
    elements = int(value.metadata_props.get(ELEMENTS_KEY, tensor.size))
    packed = FORMAT_KEY in value.metadata_props
    return _Weight(
        layer=layer(value) or "",
        role=role(value) or "",
        format=value.metadata_props.get(FORMAT_KEY, stored.name.lower()),
        elements=elements,
        matrix=elements if packed or len(tensor.shape) >= 2 else 0,
        bytes=tensor.nbytes if packed else -(-tensor.size * stored.bitwidth // 8),
    )


def _costs(
    model: ir.Model, weights: Iterable[_Weight], found: Encoder, batch: int, sequence: int
) -> list[_Cost]:
    tokens = {place: _rows(model, place, batch, sequence) for place in (HEAD, EMBEDDING)}
    costs = [
        _Cost(
            w.layer,
            w.role,
            w.elements,
            w.matrix * tokens.get(w.layer, batch * sequence) if w.role in LINEAR_ROLES else 0,
        )
        for w in weights
    ]
    product = batch * sequence * sequence * found.hidden
    for i in map(str, range(found.layers)):
        costs.append(_Cost(i, "attention.scores", 0, product))
        costs.append(_Cost(i, "attention.context", 0, product))
    return costs


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
    return {"file": total, "payload": payload, "metadata": total - payload}


def _by_role(name: str) -> tuple[int, str]:
    return (ROLES.index(name) if name in ROLES else len(ROLES), name)


def _by_layer(name: str) -> tuple[int, int]:
    if name.isdecimal():
        return 1, int(name)
    return (0, 0) if name == EMBEDDING else (2, 0)

"""Are two graphs the same, names aside?

Every value gets a hash of how it is computed: operator, attributes, and the hashes of what it is computed from.
Inputs of the graph count by name, constants by type, shape and (where asked for) contents, outputs by name. Two
models are the same structure if their outputs have the same hashes; the order of nodes and all inner names do not
matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import onnx_ir as ir

__all__ = ["difference", "same_structure", "structural_hash"]

_EXACT = 64


def structural_hash(model: ir.Model, *, values: bool = False) -> str:
    """A digest of what the graph computes, by structure.

    Constants of up to 64 numbers that are no vectors of weights (shapes, axes, scales) always count by value; with
    `values` every constant does, bit for bit.
    """
    hashes = _hashes(model, values)
    outputs = [(out.name or "", hashes[out]) for out in model.graph.outputs]
    return _digest("model", *(f"{name}={digest}" for name, digest in outputs))


def same_structure(a: ir.Model, b: ir.Model, *, tolerance: float | None = None) -> bool:
    """Do both graphs have the same structure, and weights that differ by at most `tolerance` where it is given?"""
    return difference(a, b, tolerance=tolerance) is None


def difference(a: ir.Model, b: ir.Model, *, tolerance: float | None = None) -> str | None:
    """The first difference found, in words, or None."""
    if structural_hash(a) != structural_hash(b):
        return _explained(a, b)
    if tolerance is None:
        return None
    for one, other in zip(_constants(a), _constants(b), strict=True):
        assert one.const_value is not None
        assert other.const_value is not None, "constants have values"
        x, y = one.const_value.numpy(), other.const_value.numpy()
        gap = float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max(initial=0.0))
        if gap > tolerance:
            return f"constants {one.name!r} and {other.name!r} differ by {gap:.3g}"
    return None


def _hashes(model: ir.Model, values: bool) -> dict[ir.Value, str]:
    found: dict[ir.Value, str] = {}
    for value in model.graph.inputs:
        found[value] = _digest("input", value.name or "", str(value.type))
    for value in model.graph.initializers.values():
        found.setdefault(value, _constant(value, values))
    for node in model.graph:
        attributes = sorted((a.name, _attribute(a)) for a in node.attributes.values())
        inputs = ["" if v is None else found[v] for v in node.inputs]
        domain = "" if node.domain == "ai.onnx" else node.domain
        for index, out in enumerate(node.outputs):
            found[out] = _digest(domain, node.op_type, str(index), str(attributes), *inputs)
    return found


def _constant(value: ir.Value, values: bool) -> str:
    tensor = value.const_value
    if tensor is None:
        return _digest("constant", str(value.type))
    small = tensor.size <= _EXACT and (not tensor.dtype.is_floating_point() or tensor.size == 1)
    if not (values or small):
        return _digest("constant", tensor.dtype.name, str(tensor.shape))
    array = np.asarray(tensor.numpy())
    # A number that was computed in two ways may differ in its last digits.
    text = f"{array.reshape(()):.5g}" if small and array.dtype == np.float32 and not values else None
    return _digest("constant", tensor.dtype.name, str(tensor.shape), text or array.tobytes().hex())


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        return str(attribute.as_tensor().numpy().tolist())
    if attribute.type == ir.AttributeType.FLOAT:
        return f"{attribute.as_float():.5g}"
    return str(attribute.value)


def _constants(model: ir.Model) -> list[ir.Value]:
    """Constants in the order in which a walk from the outputs meets them: the same for equal structures."""
    found: list[ir.Value] = []
    seen: set[ir.Value] = set()
    stack = list(reversed(model.graph.outputs))
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            if value.const_value is not None:
                found.append(value)
        else:
            stack.extend(v for v in reversed(node.inputs) if v is not None)
    return found


def _explained(a: ir.Model, b: ir.Model) -> str:
    counts = [Counter(node.op_type for node in model.graph) for model in (a, b)]
    if counts[0] != counts[1]:
        return f"operators differ: {dict(counts[0] - counts[1])} against {dict(counts[1] - counts[0])}"
    known = set(_hashes(b, False).values())
    first = _hashes(a, False)
    for node in a.graph:
        if first[node.outputs[0]] not in known:
            return f"nothing in the other graph is {node.op_type} {node.name!r} of the same operands"
    return "outputs are named otherwise"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()

"""What two models cost: bytes by format, multiply-accumulates by the types that are multiplied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from bqc.diff.view import View
from bqc.diff.weights import weights_of
from bqc.errors import BqcError
from bqc.inspect import inspect

__all__ = ["compare_costs", "file_bytes"]

Rows = list[dict[str, Any]]


def compare_costs(a: View, b: View, shape: tuple[int, int] = (1, 128)) -> Rows:
    """Rows ``{"what", "a", "b"}``: bytes by format, then MACs of a ``batch x sequence`` run if both are encoders."""
    rows = _rows("bytes", *(_bytes(view) for view in (a, b)))
    macs = [_macs(view, shape) for view in (a, b)]
    if all(macs):
        rows += _rows(f"MACs at {shape[0]}x{shape[1]}", *macs)
    return rows


def file_bytes(view: View) -> int | None:
    """Of the file and the data files it names."""
    if view.path is None:
        return None
    tensors = view.constants.values()
    beside = {view.path.parent / t.location for t in tensors if isinstance(t, ir.ExternalTensor)}
    return view.path.stat().st_size + sum(path.stat().st_size for path in beside)


def _rows(what: str, ours: Counter[str], theirs: Counter[str]) -> Rows:
    kinds: Iterable[str] = sorted(ours | theirs, key=lambda kind: (-max(ours[kind], theirs[kind]), kind))
    total = {"what": f"{what}, all", "a": ours.total(), "b": theirs.total()}
    return [{"what": f"{what}, {kind}", "a": ours[kind], "b": theirs[kind]} for kind in kinds] + [total]


def _bytes(view: View) -> Counter[str]:
    found: Counter[str] = Counter()
    for weight in weights_of(view):
        found[weight.format] += weight.stored
    return found


def _macs(view: View, shape: tuple[int, int]) -> Counter[str]:
    """By types; empty where the model is no encoder."""
    if view.encoder is None:
        return Counter()
    try:
        rows = inspect(view.encoder, *shape)["mac_pairs"]
    except BqcError:  # labels that do not make an encoder: a part of one, or one that was edited
        return Counter()
    return Counter({row["types"]: row["macs"] for row in rows})

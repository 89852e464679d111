"""A report as rows to print: what happened alike in several layers is one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bqc.diff.drift import Drift, TensorDrift
from bqc.diff.nodes import NodeChange
from bqc.diff.report import DiffReport, WeightChange, layer_order

__all__ = [
    "cost_rows",
    "drift_rows",
    "drift_sentences",
    "layer_ranges",
    "node_rows",
    "place",
    "role_rows",
    "tensor_row",
    "verdict",
    "weight_rows",
    "weight_words",
]

Row = tuple[str, ...]


def verdict(report: DiffReport) -> str:
    """The answer in a line."""
    if report.same:
        return "same"
    counts = [
        (len(report.signature), "difference of signature", "differences of signature"),
        (len(report.nodes), "difference of nodes", "differences of nodes"),
        (len(report.weights), "weight differs", "weights differ"),
    ]
    return ", ".join(f"{count} {one if count == 1 else more}" for count, one, more in counts if count)


def layer_ranges(layers: Iterable[str]) -> str:
    """``embedding, 0-11, head``."""
    names = sorted(set(layers), key=layer_order)
    numbers = [int(name) for name in names if name.isdecimal()]
    parts = [name for name in names if not name.isdecimal()]
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
    first = [name for name in parts if layer_order(name) < (1, 0)]
    return ", ".join([*first, *texts, *(name for name in parts if name not in first)]) or "-"


def place(layer: str, role: str) -> str:
    """Layer and role in a word."""
    return f"{layer}:{role}" if role else "-"


def node_rows(changes: Sequence[NodeChange], *, every: bool = False) -> list[Row]:
    """(layers, role, change, operators of A, of B, pass, details)."""
    if every:
        return [
            (
                change.layer or "-",
                change.role or "-",
                change.kind,
                ", ".join(change.a),
                ", ".join(change.b),
                change.made_by,
                "; ".join(change.details),
            )
            for change in changes
        ]
    merged: dict[Row, list[str]] = {}
    for change in changes:
        lone = not change.layer and len(change.a) + len(change.b) <= 2
        texts = [", ".join(names) if lone else _operators(names) for names in (change.a, change.b)]
        row = (change.role or "-", change.kind, *texts, change.made_by, "; ".join(change.details))
        merged.setdefault(row, []).append(change.layer)
    rows = sorted(merged.items(), key=lambda item: min(map(layer_order, item[1])))
    return [(layer_ranges(layers), *_counted(row, layers)) for row, layers in rows]


def _operators(names: Iterable[str]) -> str:
    counts = Counter(name.split(" ")[0] for name in names)
    return ", ".join(op if count == 1 else f"{count} {op}" for op, count in counts.items())


def _counted(row: Row, layers: Sequence[str]) -> Row:
    """How often something happened in one layer, where that is more than once."""
    most = max(Counter(layers).values())
    return row if most == 1 else (row[0], f"{row[1]} ({most} each)", *row[2:])


def weight_words(change: WeightChange) -> str:
    """What happened to a weight, in words."""
    where = f"at {change.index}: {change.values[0]:.9g} -> {change.values[1]:.9g}" if change.values else ""
    if change.kind == "removed":
        return f"only in A ({change.format_a})"
    if change.kind == "added":
        return f"only in B ({change.format_b})"
    if change.note:
        return change.note
    if change.kind == "changed":
        return f"{change.different} of {change.elements} numbers, most {where}"
    became = f"{change.format_a} -> {change.format_b}, relative error {change.relative:.2g}"
    if change.kind == "format":
        return f"{became}: the same weight within the format's error"
    if change.different and "float" in (change.format_a, change.format_b):
        return f"{became}: NOT the same weight: {change.different} of {change.elements} codes, first {where}"
    return f"{became}, largest {change.largest:.3g} {where}"


def weight_rows(changes: Sequence[WeightChange], *, every: bool = False) -> list[Row]:
    """(layers, role, weights, bytes of A, of B, what happened)."""
    rows: list[Row] = []
    merged: dict[tuple[str, str, str], list[WeightChange]] = {}
    for change in changes:
        if change.kind == "format" and not every:
            merged.setdefault((change.role, change.format_a, change.format_b), []).append(change)
            continue
        name = change.a if change.a == change.b or not change.b else change.b if not change.a else change.a
        rows.append(
            (
                change.layer or "-",
                change.role or "-",
                name,
                f"{change.bytes_a:,}",
                f"{change.bytes_b:,}",
                weight_words(change),
            )
        )
    for (role, ours, theirs), group in merged.items():
        low, high = (pick(change.relative for change in group) for pick in (min, max))
        error = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
        rows.append(
            (
                layer_ranges(change.layer for change in group),
                role or "-",
                f"{len(group)} weight{'s' if len(group) > 1 else ''}",
                f"{sum(change.bytes_a for change in group):,}",
                f"{sum(change.bytes_b for change in group):,}",
                f"{ours} -> {theirs}, relative error {error}: the same within the format's error",
            )
        )
    return rows


def cost_rows(report: DiffReport) -> list[Row]:
    """(what, A, B, change)."""
    rows: list[Row] = []
    for cost in report.costs:
        ours, theirs = cost["a"], cost["b"]
        change = f"{theirs / ours:.3f}x" if ours and theirs else ""
        rows.append((cost["what"], f"{ours:,}", f"{theirs:,}", change))
    return rows


def drift_rows(drift: Drift, *, every: bool = False) -> list[Row]:
    """(layer, role, value of A, relative error, largest error, cosine); the worst of each layer, or all."""
    chosen = list(drift.tensors)
    if not every:
        worst: dict[str, TensorDrift] = {}
        for tensor in chosen:
            known = worst.get(tensor.layer)
            if known is None or not tensor.relative <= known.relative:
                worst[tensor.layer] = tensor
        chosen = [tensor for tensor in chosen if worst[tensor.layer] is tensor]
    return [tensor_row(tensor) for tensor in chosen]


def tensor_row(tensor: TensorDrift) -> Row:
    """(layer, role, value of A, relative error, largest error, cosine)."""
    return (
        tensor.layer or "-",
        tensor.role or "-",
        tensor.a,
        f"{tensor.relative:.3g}",
        f"{tensor.max_abs:.3g}",
        f"{tensor.cosine:.6f}",
    )


def role_rows(tensors: Iterable[TensorDrift]) -> list[Row]:
    """(role, tensors, mean and largest relative error, layer of the largest), worst first."""
    groups: dict[str, list[TensorDrift]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.role, []).append(tensor)
    rows = []
    for role, group in groups.items():
        worst = max(group, key=lambda tensor: tensor.relative)
        mean = sum(tensor.relative for tensor in group) / len(group)
        row = (role or "-", f"{len(group)}", f"{mean:.3g}", f"{worst.relative:.3g}", worst.layer or "-")
        rows.append((worst.relative, row))
    return [row for _, row in sorted(rows, key=lambda item: -item[0])]


def drift_sentences(drift: Drift) -> list[str]:
    """Where the models part, in words."""
    if not drift.tensors:
        return ["no tensor of one model is one of the other"]
    if drift.parted is None:
        return [f"all {len(drift.tensors)} aligned tensors agree"]
    first = drift.tensors[drift.parted]
    before = "the first aligned tensor" if drift.parted == 0 else f"after {drift.parted} tensors that agree"
    lines = [f"the models part at {_where(first)}, {before}: relative error {first.relative:.3g}"]
    if drift.jump is not None:
        worst = drift.tensors[drift.jump]
        lines.append(f"the error grows most at {_where(worst)}: {worst.relative:.3g}")
    if drift.skipped:
        lines.append(f"not compared, as shapes differ: {', '.join(drift.skipped[:5])}")
    return lines


def _where(tensor: TensorDrift) -> str:
    return f"{place(tensor.layer, tensor.role)} ({tensor.a})" if tensor.role else tensor.a

"""A report as one HTML file that needs nothing else: side by side by layer, searchable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from bqc.diff.drift import NOISE, Drift
from bqc.diff.report import DiffReport, Side, WeightChange
from bqc.diff.summary import cost_rows, drift_sentences, tensor_row, verdict, weight_words
from bqc.errors import BqcError
from bqc.staging import write_text

__all__ = ["html_page", "write_page"]


def write_page(report: DiffReport, path: Path) -> None:
    """Write the page.

    Raises:
        BqcError: the file cannot be written.
    """
    try:
        write_text(path, html_page(report))
    except OSError as error:
        raise BqcError(f"{path}: cannot be written: {error.strerror or error}") from None


def html_page(report: DiffReport) -> str:
    """The whole page as text."""
    layers = report.layers()
    parts = [
        "<h1>bqc diff</h1>",
        f'<div class="verdict{" same" if report.same else ""}">{escape(verdict(report))}</div>',
        f"<p>A: {_side(report.a)}<br>B: {_side(report.b)}</p>",
        *(f'<p class="dim">{escape(note)}</p>' for note in report.notes),
        _signature(report),
        _section("Cost", ("", ">A", ">B", ">B / A"), cost_rows(report)),
        '<div id="search"><input type="search" placeholder="Search: layer, role, operator, pass, weight"'
        ' aria-label="Search"></div>',
        "<h2>Layers</h2>" if layers else "",
        *(_layer(report, layer, is_open=at < 2) for at, layer in enumerate(layers)),
        "" if report.drift is None else _drift(report.drift),
    ]
    template = Template(files("bqc.diff").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(body="\n".join(part for part in parts if part))


def _side(side: Side) -> str:
    imported = ", imported" if side.canonical else ""
    size = "" if side.file_bytes is None else f", {side.file_bytes / 2**20:.2f} MiB"
    return f"<code>{escape(side.path)}</code> ({side.kind}{imported}, {side.nodes} nodes{size})"


def _signature(report: DiffReport) -> str:
    rows = [(change.kind, change.what, change.a, change.b) for change in report.signature]
    return _section("Inputs, outputs, opsets, functions", ("change", "of", "A", "B"), rows) if rows else ""


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    flush = [' class="number"' if name.startswith(">") else "" for name in columns]
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for kind, cell in zip(flush, row, strict=True))}</tr>"
        for row in rows
    )
    return f"<h2>{escape(title)}</h2>\n<table>{_head(columns)}{body}</table>"


def _head(columns: Sequence[str]) -> str:
    cells = (
        f'<th class="number">{escape(name[1:])}</th>' if name.startswith(">") else f"<th>{escape(name)}</th>"
        for name in columns
    )
    return f"<tr>{''.join(cells)}</tr>"


def _layer(report: DiffReport, layer: str, *, is_open: bool) -> str:
    """Everything that differs in a layer: its nodes, then its weights."""
    nodes = [change for change in report.nodes if change.layer == layer]
    weights = [change for change in report.weights if change.layer == layer]
    rows = [
        _row(
            (change.layer, change.role, change.kind, change.made_by),
            change.role,
            change.a,
            change.b,
            "; ".join([change.kind, *([f"by {change.made_by}"] if change.made_by else []), *change.details]),
        )
        for change in nodes
    ]
    rows += [
        _row(
            (layer, change.role, change.kind),
            change.role,
            _weight(change, 0),
            _weight(change, 1),
            weight_words(change),
        )
        for change in weights
    ]
    title = f"layer {layer}" if layer.isdecimal() else layer or "outside the anatomy"
    count = f"{len(nodes)} changes of nodes, {len(weights)} of weights"
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(title)}<span>{count}</span></summary>"
        f"<table>{_head(('role', 'A', 'B', 'what happened'))}{''.join(rows)}</table></details>"
    )


def _weight(change: WeightChange, side: int) -> list[str]:
    name = (change.a, change.b)[side]
    size = (change.bytes_a, change.bytes_b)[side]
    return [f"{name} {change.shape}, {size:,} bytes"] if name else []


def _row(search: Iterable[str], role: str, ours: Sequence[str], theirs: Sequence[str], what: str) -> str:
    text = " ".join([*search, *ours, *theirs, what]).lower()
    cells = ["<br>".join(map(escape, names)) for names in (ours, theirs)]
    return (
        f'<tr data-text="{escape(text)}"><td>{escape(role) or "-"}</td><td class="a name">{cells[0]}</td>'
        f'<td class="b name">{cells[1]}</td><td>{escape(what)}</td></tr>'
    )


def _drift(drift: Drift) -> str:
    """Every aligned tensor with a bar on a logarithmic scale."""
    rows = []
    for at, tensor in enumerate(drift.tensors):
        layer, role, name, *numbers = tensor_row(tensor)
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        mark = ' class="mark"' if at in (drift.parted, drift.jump) else ""
        rows.append(
            f'<tr data-text="{escape(f"{layer} {role} {name}".lower())}"{mark}><td>{escape(layer)}</td>'
            f'<td>{escape(role)}</td><td class="name">{escape(name)}</td>{cells}'
            f'<td style="width:18%"><div class="bar" style="width:{_width(tensor.relative):.0f}%"></div></td></tr>'
        )
    lines = "".join(f"<p>{escape(line)}</p>" for line in drift_sentences(drift))
    columns = (
        "layer",
        "role",
        "value of A",
        ">relative error",
        ">largest",
        ">cosine",
        f"from {NOISE:g} to 1",
    )
    return (
        f'<h2>Tensors</h2><p class="dim">{escape(drift.inputs)}</p>{lines}'
        f"<details open><summary>{len(rows)} aligned tensors</summary>"
        f"<table>{_head(columns)}{''.join(rows)}</table></details>"
    )


def _width(relative: float) -> float:
    """Percent: 0 at `NOISE`, 100 at 1."""
    if not relative > NOISE:
        return 0.0
    return min(100.0, 100 * (1 + math.log10(relative) / -math.log10(NOISE)))

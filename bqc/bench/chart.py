"""The report as one HTML page with bar charts, drawn as inline SVG: nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bqc.bench.report import Report, WorkloadReport

__all__ = ["html_page"]

_LABEL, _BARS, _VALUE, _ROW, _BAR = 190, 430, 230, 30, 18
"""Widths of the three columns of a chart, height of a row and of its bar, in pixels."""

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 880px; padding: 0 1rem;
  color: #1c2733; background: #fff; }
h1 { font-size: 1.35rem; margin-bottom: 0; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; }
p { margin: .3rem 0; color: #5a6875; } .warning { color: #a04000; }
svg { width: 100%; height: auto; } text { font-size: 13px; fill: #1c2733; }
.bar { fill: #3b78b5; } .reference { fill: #98a5b3; } .tail { stroke: #1c2733; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  body { color: #dde4ea; background: #14191f; } p { color: #9aa7b3; } .warning { color: #e59866; }
  text { fill: #dde4ea; } .bar { fill: #5b9bd5; } .reference { fill: #66727f; } .tail { stroke: #dde4ea; }
}
"""


@dataclass(frozen=True)
class _Bar:
    """One row of a chart: a bar to ``value``, a line on to ``tail``, and a text."""

    label: str
    value: float
    tail: float
    text: str
    reference: bool


def html_page(report: Report) -> str:
    """A page with a chart a workload, and one of memory if it was measured."""
    machine = report.machine
    threads = "ONNX Runtime's choice of threads" if machine.threads is None else f"{machine.threads} threads"
    parts = [
        f"<p>{escape(machine.cpu)}, {machine.cores} cores, {threads}, ONNX Runtime {escape(machine.onnxruntime)},"
        f" load average before {machine.load_average:.2f}</p>",
        *(f'<p class="warning">{escape(line)}</p>' for line in report.warnings),
    ]
    for workload in report.workloads:
        parts.append(f"<h2>{escape(workload.name)}: milliseconds a batch</h2>")
        parts.append(
            f"<p>Bar: steady. Line: to the 90th percentile. Number: times as fast as {escape(report.reference)}, least"
            " and most of the rounds.</p>"
        )
        parts.append(_chart(_latency_bars(report, workload)))
    if memory := _memory_bars(report):
        parts.append("<h2>Memory above an empty ONNX Runtime process, MiB</h2>")
        parts.append("<p>Bar: after the runs. Line: to the peak. Number: time to load.</p>")
        parts.append(_chart(memory))
    title = "bqc bench: " + ", ".join(engine.name for engine in report.engines)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><h1>bqc bench</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _latency_bars(report: Report, workload: WorkloadReport) -> list[_Bar]:
    return [
        _Bar(
            one.engine,
            one.steady_ms,
            max(one.p90_ms, one.steady_ms),
            f"{one.steady_ms:.4g} ms"
            + (
                ""
                if one.engine == report.reference
                else f", {one.ratio:.2f}x ({one.ratio_min:.2f}-{one.ratio_max:.2f})"
            ),
            one.engine == report.reference,
        )
        for one in workload.engines
    ]


def _memory_bars(report: Report) -> list[_Bar]:
    mib = 1 << 20
    return [
        _Bar(
            engine.name,
            engine.footprint.resident_above_empty / mib,
            engine.footprint.peak_above_empty / mib,
            f"{engine.footprint.resident_above_empty / mib:.1f} MiB, loads in {engine.footprint.load_ms:.0f} ms",
            engine.name == report.reference,
        )
        for engine in report.engines
        if engine.footprint
    ]


def _chart(bars: Sequence[_Bar]) -> str:
    scale = _BARS / max(max(bar.tail, bar.value, 1e-9) for bar in bars)
    lines = [f'<svg viewBox="0 0 {_LABEL + _BARS + _VALUE} {_ROW * len(bars)}" role="img">']
    for i, bar in enumerate(bars):
        middle = _ROW * i + _ROW / 2
        end, tail = _LABEL + max(bar.value, 0) * scale, _LABEL + max(bar.tail, 0) * scale
        kind = "reference" if bar.reference else "bar"
        lines += [
            f'<text x="{_LABEL - 8}" y="{middle + 4.5}" text-anchor="end">{escape(_short(bar.label))}</text>',
            f'<rect class="{kind}" x="{_LABEL}" y="{middle - _BAR / 2}" width="{end - _LABEL:.1f}" '
            f'height="{_BAR}" rx="2"/>',
            f'<line class="tail" x1="{end:.1f}" x2="{tail:.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{tail + 8:.1f}" y="{middle + 4.5}">{escape(bar.text)}</text>',
        ]
    return "\n".join([*lines, "</svg>"])


def _short(label: str) -> str:
    """The end of a name that is too long for its column: what tells paths apart comes last."""
    most = 26
    return label if len(label) <= most else "…" + label[-most + 1 :]

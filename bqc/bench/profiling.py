"""Where an engine's time goes: by operator and, in compiled models, by role in the encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from bqc.bench.macs import arithmetic, macs
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY
from bqc.runtime.feeds import Feeds
from bqc.runtime.session import session

__all__ = ["Profile", "Row", "profile"]

_WARM_UPS = 2


@dataclass(frozen=True)
class Row:
    """Nodes that share an operator or a role.

    Attributes:
        name: the operator, or the role.
        nodes: how many.
        milliseconds: of one run, all the nodes together.
        share: of the whole run.
        macs: multiply-accumulates of one run; 0 where there are none to count.
        gmacs: 10**9 multiply-accumulates a second; 0 likewise.
        of_peak: ``gmacs`` / what this machine can do in that arithmetic; None where nothing was measured.
    """

    name: str
    nodes: int
    milliseconds: float
    share: float
    macs: int
    gmacs: float
    of_peak: float | None


@dataclass(frozen=True)
class Profile:
    """One engine on one batch.

    Attributes:
        milliseconds: of one run under the profiler, which is slower than without.
        operators: rows by operator, the most time first.
        roles: rows by role, the most time first; empty for a model without bqc's labels.
        between: share of the run outside of all nodes: ONNX Runtime's own work.
    """

    milliseconds: float
    operators: list[Row]
    roles: list[Row]
    between: float


@dataclass(frozen=True)
class _Node:
    """One node of the model as it ran: its time in one run on average."""

    operator: str
    role: str | None
    milliseconds: float
    macs: int


def profile(
    path: Path, feeds: Feeds, threads: int | None, runs: int, folder: Path, peaks: dict[str, float]
) -> Profile:
    """Run ``path`` on ``feeds`` under ONNX Runtime's profiler.

    Args:
        path: the model file.
        feeds: of one batch.
        threads: of ONNX Runtime; None for its own choice.
        runs: runs that count.
        folder: takes the trace.
        peaks: arithmetic -> GMAC/s of this machine with that many threads.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    engine = session(path, options=options, threads=threads)
    for _ in range(_WARM_UPS + runs):
        engine.run(None, feeds)
    trace = Path(engine.end_profiling())
    events = json.loads(trace.read_text(encoding="utf-8"))
    trace.unlink()
    return summarize(events, runs, _roles(path), peaks)


def summarize(
    events: Iterable[dict[str, Any]], runs: int, roles: dict[str, str], peaks: dict[str, float]
) -> Profile:
    """The last ``runs`` runs of a trace in ONNX Runtime's format, as a ``Profile``.

    Args:
        events: the trace; times are microseconds.
        runs: runs that count.
        roles: node -> role.
        peaks: arithmetic -> GMAC/s.
    """
    events = list(events)
    whole = [event for event in events if event.get("cat") == "Session" and event["name"] == "model_run"][
        -runs:
    ]
    begin = whole[0]["ts"]
    nodes: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begin:
            nodes.setdefault(event["args"]["node_index"], []).append(event)
    found = [_node(seen, runs, roles) for seen in nodes.values()]
    total = sum(event["dur"] for event in whole) / runs / 1e3
    labelled = [node for node in found if node.role]
    return Profile(
        milliseconds=total,
        operators=_rows(found, [node.operator for node in found], total, peaks),
        roles=_rows(labelled, [str(node.role) for node in labelled], total, peaks),
        between=1 - sum(node.milliseconds for node in found) / total,
    )


def _node(events: Sequence[dict[str, Any]], runs: int, roles: dict[str, str]) -> _Node:
    about = events[0]["args"]
    inputs, outputs = (
        [shape for entry in about[key] for shape in entry.values()]
        for key in ("input_type_shape", "output_type_shape")
    )
    return _Node(
        operator=about["op_name"],
        role=roles.get(events[0]["name"].removesuffix("_kernel_time")),
        milliseconds=sum(event["dur"] for event in events) / runs / 1e3,
        macs=macs(about["op_name"], inputs, outputs),
    )


def _rows(nodes: Sequence[_Node], names: Sequence[str], total: float, peaks: dict[str, float]) -> list[Row]:
    groups: dict[str, list[_Node]] = {}
    for node, name in zip(nodes, names, strict=True):
        groups.setdefault(name, []).append(node)
    rows = []
    for name, members in groups.items():
        time = sum(node.milliseconds for node in members)
        work = sum(node.macs for node in members)
        gmacs = work / time / 1e6 if time else 0.0
        # A role is one product and what surrounds it, so one arithmetic.
        kinds = {kind for node in members if (kind := arithmetic(node.operator))}
        peak = peaks.get(kinds.pop()) if len(kinds) == 1 else None
        rows.append(Row(name, len(members), time, time / total, work, gmacs, gmacs / peak if peak else None))
    return sorted(rows, key=lambda row: -row.milliseconds)


def _roles(path: Path) -> dict[str, str]:
    """Node -> its role, for nodes of a layer all layers together."""
    roles = {}
    for node in onnx.load(str(path), load_external_data=False).graph.node:
        labels = {entry.key: entry.value for entry in node.metadata_props}
        if LAYER_KEY in labels and ROLE_KEY in labels:
            roles[node.name] = labels[ROLE_KEY]
    return roles

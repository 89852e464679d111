"""``bqc doctor``: what this machine has, which kernels it would run, and how a model's nodes would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bqc.cli.common import FILE, Settings, check_mark, common_options, emit_json, examples, say, table

if TYPE_CHECKING:
    from bqc.runtime.nodes import ModelRun

__all__ = ["command"]

SCHEMA_VERSION = 2


@click.command(
    "doctor", epilog=examples("bqc doctor", "bqc doctor model.bqc.onnx", "BQC_MAX_ISA=avx2 bqc doctor")
)
@click.argument("model", type=FILE, metavar="[MODEL]", required=False)
@common_options
def command(settings: Settings, model: Path | None) -> int:
    """Show the CPU, ONNX Runtime, the kernel library, the kernels that would run, and the self-test.

    With MODEL also how each of its nodes would run: by which kernel, and why.

    Exit status 1 if the library is missing, its self-test fails, or a node of MODEL has no kernel. Compiled models
    run without them, slower.
    """
    from bqc.runtime.doctor import diagnose
    from bqc.runtime.nodes import node_runs

    found = diagnose()
    runs = node_runs(model) if model and not found.broken else None
    if settings.json:
        emit_json(SCHEMA_VERSION, {**found.to_dict(), "model": runs.to_dict() if runs else None})
    else:
        for finding in found.findings:
            if finding.ok is None and runs and not settings.verbose:
                continue  # what other kernels there are says nothing about this model
            mark = "   " if finding.ok is None else check_mark(finding.ok)
            say(settings, f"{mark} {finding.name}: {finding.detail}")
        if found.broken or settings.verbose:
            for line in found.self_test:
                say(settings, f"      {line}")
        if runs:
            _print_runs(settings, runs)
    return 1 if found.broken or (runs and not runs.complete) else 0


def _print_runs(settings: Settings, runs: ModelRun) -> None:
    if not runs.nodes:
        say(settings, f"    {runs.path}: no ai.bqc nodes; all of it is run by ONNX Runtime's own kernels")
        return
    count = f"{len(runs.nodes)} ai.bqc node{'' if len(runs.nodes) == 1 else 's'}"
    if not settings.quiet:
        if settings.verbose:
            rows = [(node.node, node.op_type, node.level, node.by, node.reason) for node in runs.nodes]
        else:
            rows = [(str(n), node.op_type, node.level, node.by, node.reason) for node, n in runs.grouped()]
        table(
            f"{check_mark(runs.complete)} {runs.path}: {count}",
            ("node" if settings.verbose else ">nodes", "operator", "level", "by", "why"),
            rows,
        )
    if runs.standard:
        listed = ", ".join(f"{many} {op_type}" for op_type, many in runs.standard.items())
        say(settings, f"    run by ONNX Runtime's own kernels: {listed}")

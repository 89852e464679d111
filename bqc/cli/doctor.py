"""``bqc doctor``: what this machine has and which kernels it would run."""

from __future__ import annotations

import click

from bqc.cli.common import Settings, check_mark, common_options, emit_json, examples, say

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command("doctor", epilog=examples("bqc doctor", "BQC_MAX_ISA=avx2 bqc doctor"))
@common_options
def command(settings: Settings) -> int:
    """Show the CPU, ONNX Runtime, the kernel library, the kernels that would run, and the self-test.

    Exit status 1 if the library is missing or its self-test fails. Compiled models run without it, slower.
    """
    from bqc.runtime.doctor import diagnose

    found = diagnose()
    if settings.json:
        emit_json(SCHEMA_VERSION, found.to_dict())
    else:
        for finding in found.findings:
            mark = "   " if finding.ok is None else check_mark(finding.ok)
            say(settings, f"{mark} {finding.name}: {finding.detail}")
        if found.broken or settings.verbose:
            for line in found.self_test:
                say(settings, f"      {line}")
    return 1 if found.broken else 0

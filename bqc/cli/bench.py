"""``bqc bench``: engines on this machine, in alternating blocks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bqc.cli.common import (
    FILE,
    Settings,
    Shape,
    common_options,
    emit_json,
    examples,
    progress_bar,
    say,
    seed_option,
    table,
    threads_option,
)
from bqc.errors import BqcError

if TYPE_CHECKING:
    from bqc.bench.profiling import Row
    from bqc.bench.report import Profiled, Report, WorkloadReport
    from bqc.bench.workload import Vocabulary, Workload

__all__ = ["BenchWarning", "command"]

SCHEMA_VERSION = 1

_MIB = 1 << 20
_LEAST_SHARE = 0.005  # of a profile's rows that are shown


class BenchWarning(UserWarning):
    """The numbers are worth less than they look."""


@click.command(
    "bench",
    epilog=examples(
        "bqc bench model.onnx model.bqc.onnx --shape 1x16 --shape 1x128 --threads 2",
        "bqc bench model.bqc.onnx --source model.onnx --baseline ort-fp32,ort-int8,ort-nbits4 --html bench.html",
        "bqc bench model.onnx model.bqc.onnx --shape 32x128 --lengths sst2 --profile",
    ),
)
@click.argument("models", nargs=-1, required=True, type=FILE, metavar="MODEL...")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=Shape(),
    metavar="BxS",
    default=["1x16", "1x128", "8x128"],
    help="Batch and tokens; may be repeated. [default: 1x16, 1x128, 8x128]",
)
@click.option(
    "--baseline",
    "baselines",
    default="",
    metavar="NAME,...",
    help="Also ONNX Runtime's own: ort-fp32, ort-int8, ort-nbits4.",
)
@click.option(
    "--source", type=FILE, metavar="FILE", help="Float model of the baselines. [default: the first one given]"
)
@click.option(
    "--relative-to", metavar="ENGINE", help="What ratios are to. [default: the first baseline, else model]"
)
@click.option("--random", "ragged", is_flag=True, help="Rows of 1 to S tokens, padded to S.")
@click.option("--lengths", metavar="TASK", help="Rows as long as a task's: sst2, mrpc, cola or stsb.")
@click.option(
    "--data", type=FILE, metavar="DIR", help="Folder with the task's files. [default: built-in lengths]"
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Blocks of an engine."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Of counted runs in a block.",
)
@click.option("--no-memory", is_flag=True, help="Do not measure memory and load time.")
@click.option("--profile", is_flag=True, help="Also where the time goes, by operator and by role.")
@click.option("--html", type=FILE, metavar="FILE", help="Write bar charts there.")
@seed_option
@threads_option
@common_options
def command(
    settings: Settings,
    models: tuple[Path, ...],
    shapes: tuple[tuple[int, int], ...],
    baselines: str,
    source: Path | None,
    relative_to: str | None,
    ragged: bool,
    lengths: str | None,
    data: Path | None,
    rounds: int,
    seconds: float,
    no_memory: bool,
    profile: bool,
    html: Path | None,
    seed: int,
    threads: int | None,
) -> None:
    """Compare the speed, memory and load time of models, float or compiled.

    Engines run in alternating blocks: a pause, a cold run, warm-up runs, the counted runs; then the next engine.
    Memory and load time come from processes of their own.
    """
    if ragged and lengths:
        raise click.UsageError("--random and --lengths exclude each other")
    if data and not lengths:
        raise click.UsageError("--data needs --lengths TASK")

    from bqc.artifact import require_writable
    from bqc.bench import Options, Plan, Watcher, bench

    if html:
        require_writable(html)  # not after minutes of measuring
    options = Options(
        baselines=[name.strip() for name in baselines.split(",") if name.strip()],
        source=source,
        relative_to=relative_to,
        threads=threads,
        plan=Plan(rounds=rounds, seconds=seconds),
        memory=not no_memory,
        profile=profile,
    )
    rows = _lengths(lengths, data, models) if lengths else None

    def workloads(vocabulary: Vocabulary) -> list[Workload]:
        from bqc.bench import workload

        if rows is not None:
            return [workload.realistic(shape, vocabulary, str(lengths), rows, seed) for shape in shapes]
        make = workload.ragged if ragged else workload.full
        return [make(shape, vocabulary, seed) for shape in shapes]

    with progress_bar(settings, "blocks") as progress:
        watcher = Watcher(_reporter(settings), progress or Watcher().progress)
        report = bench(models, workloads, options, watcher)
    for line in report.warnings:
        warnings.warn(line, BenchWarning, stacklevel=1)
    if settings.json:
        emit_json(SCHEMA_VERSION, report.to_dict())
    elif not settings.quiet:
        _show(settings, report)
    if html:
        _write_page(html, report)


def _reporter(settings: Settings) -> Callable[[str], None]:
    """Steps are news only to who asked for them."""
    if not settings.verbose:
        return lambda line: None
    return lambda line: click.echo(f"bqc: {line}", err=True)


def _lengths(task: str, data: Path | None, models: Sequence[Path]) -> list[int]:
    from bqc.bench.lengths import built_in_lengths, measured_lengths

    if data is None:
        return built_in_lengths(task)
    return measured_lengths(task, data, [model.parent for model in models])


def _write_page(path: Path, report: Report) -> None:
    from bqc.bench.chart import html_page
    from bqc.staging import write_text

    try:
        write_text(path, html_page(report))
    except OSError as error:
        raise BqcError(f"{path}: cannot be written: {error.strerror}") from error


def _show(settings: Settings, report: Report) -> None:
    machine = report.machine
    threads = "own choice of threads" if machine.threads is None else f"threads: {machine.threads}"
    say(
        settings,
        f"{machine.cpu}, {machine.cores} cores; ONNX Runtime {machine.onnxruntime}, {threads}; "
        f"load average before: {machine.load_average:.2f}",
    )
    for workload in report.workloads:
        _show_workload(report, workload)
    if any(engine.footprint for engine in report.engines):
        _show_memory(report)
    for peak in report.peaks:
        say(settings, f"peak of this machine: {peak.gmacs:.0f} GMAC/s {peak.arithmetic} ({peak.level})")
    for profiled in report.profiles:
        _show_profile(profiled)


def _show_workload(report: Report, workload: WorkloadReport) -> None:
    rows = [
        (
            one.engine,
            f"{one.steady_ms:.4g}",
            f"{one.ratio:.2f}x",
            f"{one.ratio_min:.2f}-{one.ratio_max:.2f}",
            f"{one.p50_ms:.4g}",
            f"{one.p90_ms:.4g}",
            f"{one.p99_ms:.4g}",
            f"{one.cold_ms:.4g}",
            f"{one.tokens_per_second:.0f}",
            f"{100 * one.spread:.0f} %",
        )
        for one in workload.engines
    ]
    columns = (
        "engine",
        ">steady ms",
        f">to {report.reference}",
        ">range",
        ">P50",
        ">P90",
        ">P99",
        ">cold",
        ">tokens/s",
        ">spread",
    )
    about = f"{workload.batches} batches of" if workload.batches > 1 else "batch of"
    table(
        f"{workload.name} ({about} {workload.tokens:.0f} tokens, {workload.padded_tokens:.0f} padded)",
        columns,
        rows,
    )


def _show_memory(report: Report) -> None:
    rows = [
        (
            engine.name,
            f"{found.load_ms:.0f}",
            f"{found.resident_above_empty / _MIB:.1f}",
            f"{found.peak_above_empty / _MIB:.1f}",
            f"{found.resident / _MIB:.1f}",
            f"{found.peak / _MIB:.1f}",
        )
        for engine in report.engines
        if (found := engine.footprint)
    ]
    columns = ("engine", ">load ms", ">RSS above empty", ">peak above empty", ">RSS", ">peak RSS")
    table("memory in MiB, in a process of its own", columns, rows)


def _show_profile(profiled: Profiled) -> None:
    found = profiled.profile
    for what, rows in (("operator", found.operators), ("role", found.roles)):
        if not rows:
            continue
        table(
            f"{profiled.engine} on {profiled.workload}: {found.milliseconds:.4g} ms under the profiler, "
            f"{100 * found.between:.0f} % between nodes",
            (what, ">nodes", ">ms", ">share", ">GMAC/s", ">of peak"),
            [_profile_row(row) for row in rows if row.share >= _LEAST_SHARE],
        )


def _profile_row(row: Row) -> tuple[str, int, str, str, str, str]:
    return (
        row.name,
        row.nodes,
        f"{row.milliseconds:.3f}",
        f"{100 * row.share:.1f} %",
        f"{row.gmacs:.1f}" if row.macs else "",
        "" if row.of_peak is None else f"{100 * row.of_peak:.0f} %",
    )

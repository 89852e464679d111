"""One comparison: engines, workloads, blocks, memory and profile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime

from bqc.bench.engines import Engine, find_engines, vocabulary
from bqc.bench.footprint import Footprint, measure, measure_empty
from bqc.bench.latency import summarize
from bqc.bench.peak import Peak, best, measure_peaks
from bqc.bench.profiling import profile
from bqc.bench.report import EngineReport, Machine, Profiled, Report, WorkloadReport, noise
from bqc.bench.schedule import Plan, Run, alternate
from bqc.bench.workload import Vocabulary, Workload
from bqc.errors import BqcError
from bqc.runtime.feeds import Feeds
from bqc.runtime.inputs import EncoderInputs
from bqc.runtime.native import native
from bqc.runtime.session import session
from bqc.runtime.specs import specs_of

__all__ = ["Options", "Watcher", "bench"]

_PROCESSES = 3  # that measure an engine's memory and load time
_PROFILED_RUNS = 5


@dataclass(frozen=True)
class Options:
    """What a comparison is to have.

    Attributes:
        baselines: names out of ``BASELINES``.
        source: the float file they are made from; None takes the first model that is not compiled.
        relative_to: the engine that ratios are to; None takes the first baseline, or else the first model.
        threads: of ONNX Runtime; None for its own choice.
        plan: how long and how often engines run.
        memory: whether to measure memory and load time.
        profile: whether to profile.
    """

    baselines: Sequence[str] = ()
    source: Path | None = None
    relative_to: str | None = None
    threads: int | None = None
    plan: Plan = field(default_factory=Plan)
    memory: bool = True
    profile: bool = False


@dataclass(frozen=True)
class Watcher:
    """Who waits for a comparison.

    Attributes:
        say: takes a line a step.
        progress: takes (blocks done, blocks in all).
    """

    say: Callable[[str], None] = lambda line: None
    progress: Callable[[int, int], None] = lambda done, total: None


_NOBODY = Watcher()


def bench(
    models: Sequence[Path],
    workloads: Callable[[Vocabulary], Sequence[Workload]],
    options: Options,
    watcher: Watcher = _NOBODY,
) -> Report:
    """Compare models, float or compiled, and baselines in speed, memory and load time.

    Args:
        models: files.
        workloads: makes the workloads for a vocabulary that all models have.
        options: what else.
        watcher: hears how far it is.

    Raises:
        BqcError: a model cannot be read or run, a baseline cannot be made, or ``relative_to`` is no engine.
    """
    machine = Machine.here(options.threads)
    with tempfile.TemporaryDirectory(prefix="bqc-bench-") as name:
        folder = Path(name)
        engines = find_engines(models, options.baselines, options.source, folder, watcher.say)
        names = [engine.name for engine in engines]
        reference = options.relative_to or names[0]
        if reference not in names:
            raise BqcError(f"no engine '{reference}' to compare with: engines are {', '.join(names)}")
        watcher.say("loading the engines")
        sessions = {engine.name: session(engine.path, threads=options.threads) for engine in engines}
        own = [engine for engine in engines if engine.path in models]
        specs = specs_of([*sessions.values(), sessions[own[0].name]], own[0].path)
        inputs = {name: EncoderInputs.of(one, specs) for name, one in sessions.items()}
        known = [vocabulary(engine.path, inputs[engine.name]) for engine in own]
        chosen = workloads(Vocabulary(min(one.ids for one in known), min(one.types for one in known)))
        _require_positions(chosen, inputs)
        reports = _timings(sessions, inputs, chosen, reference, options.plan, watcher)
        sessions.clear()  # their memory
        footprints: dict[str, Footprint] = {}
        if options.memory:
            feeds = {name: one.feeds(chosen[0].batches[0]) for name, one in inputs.items()}
            footprints = _footprints(engines, feeds, options.threads, folder, watcher)
        peaks: list[Peak] = []
        profiles: list[Profiled] = []
        if options.profile:
            watcher.say("measuring the peak of this machine")
            peaks = measure_peaks(native(), options.threads or machine.cores)
            profiles = _profiles(engines, inputs, chosen, options.threads, folder, best(peaks), watcher)
    return Report(
        machine=machine,
        reference=reference,
        engines=[
            EngineReport(
                engine.name,
                str(engine.path) if engine.path in models else None,
                engine.operators,
                footprints.get(engine.name),
            )
            for engine in engines
        ],
        workloads=reports,
        peaks=peaks,
        profiles=profiles,
        warnings=[engine.warning for engine in engines if engine.warning] + noise(reports),
    )


def _require_positions(workloads: Sequence[Workload], inputs: Mapping[str, EncoderInputs]) -> None:
    longest = min((one.longest for one in inputs.values() if one.longest), default=None)
    for workload in workloads:
        width = max(batch.ids.shape[1] for batch in workload.batches)
        if longest is not None and width > longest:
            raise BqcError(
                f"{workload.name}: sequences of {width} tokens, and the model has positions for {longest}; "
                f"give --shape 1x{longest} or less"
            )


def _timings(
    sessions: Mapping[str, onnxruntime.InferenceSession],
    inputs: Mapping[str, EncoderInputs],
    workloads: Sequence[Workload],
    reference: str,
    plan: Plan,
    watcher: Watcher,
) -> list[WorkloadReport]:
    done, total = 0, len(workloads) * plan.rounds * len(sessions)

    def advance() -> None:
        nonlocal done
        done += 1
        watcher.progress(done, total)

    reports = []
    for workload in workloads:
        watcher.say(f"timing {workload.name}")
        runs = {name: _runner(name, one, inputs[name], workload) for name, one in sessions.items()}
        count = len(workload.batches)
        blocks = alternate(runs, plan, count, progress=advance)
        latencies = summarize(blocks, reference, count, workload.tokens)
        reports.append(
            WorkloadReport(workload.name, count, workload.tokens, workload.padded_tokens, latencies)
        )
    return reports


def _runner(
    name: str, engine: onnxruntime.InferenceSession, inputs: EncoderInputs, workload: Workload
) -> Run:
    feeds = [inputs.feeds(batch) for batch in workload.batches]

    def run(batch: int) -> None:
        try:
            engine.run(None, feeds[batch])
        except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
            raise BqcError(f"{name} cannot run {workload.name}: {error}") from error

    return run


def _footprints(
    engines: Sequence[Engine], feeds: Mapping[str, Feeds], threads: int | None, folder: Path, watcher: Watcher
) -> dict[str, Footprint]:
    watcher.say("measuring memory and load time")
    empty = measure_empty(threads, folder)
    return {
        engine.name: Footprint.of(
            [measure(engine.path, feeds[engine.name], threads, folder) for _ in range(_PROCESSES)], empty
        )
        for engine in engines
    }


def _profiles(
    engines: Sequence[Engine],
    inputs: Mapping[str, EncoderInputs],
    workloads: Sequence[Workload],
    threads: int | None,
    folder: Path,
    peaks: dict[str, float],
    watcher: Watcher,
) -> list[Profiled]:
    found = []
    for workload in workloads:
        for engine in engines:
            watcher.say(f"profiling {engine.name} on {workload.name}")
            feeds = inputs[engine.name].feeds(workload.batches[0])
            one = profile(engine.path, feeds, threads, _PROFILED_RUNS, folder, peaks)
            found.append(Profiled(engine.name, workload.name, one))
    return found

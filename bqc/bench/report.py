"""What a comparison found, as plain data."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import onnxruntime

from bqc.bench.footprint import Footprint
from bqc.bench.latency import Latency
from bqc.bench.peak import Peak
from bqc.bench.profiling import Profile
from bqc.runtime.doctor import cpu_name

__all__ = ["NOISE_LIMIT", "EngineReport", "Machine", "Profiled", "Report", "WorkloadReport", "noise"]

NOISE_LIMIT = 0.10
"""Largest spread between the rounds of an engine that passes without a warning."""


@dataclass(frozen=True)
class Machine:
    """Where the numbers come from.

    Attributes:
        cpu: its name.
        cores: that this process may use.
        load_average: of the last minute, before the first run: above 0.5 something else is running.
        threads: of every engine; None is ONNX Runtime's own choice.
        onnxruntime: its version.
    """

    cpu: str
    cores: int
    load_average: float
    threads: int | None
    onnxruntime: str

    @classmethod
    def here(cls, threads: int | None) -> Machine:
        """This machine, now."""
        return cls(
            cpu=cpu_name(),
            cores=len(os.sched_getaffinity(0)),
            load_average=os.getloadavg()[0],
            threads=threads,
            onnxruntime=onnxruntime.__version__,
        )


@dataclass(frozen=True)
class EngineReport:
    """An engine.

    Attributes:
        name: in the other tables.
        file: the model file; None of a baseline, whose file is gone.
        operators: of a baseline: operator of ONNX Runtime's own domain -> nodes.
        footprint: memory and load time; None where they were not measured.
    """

    name: str
    file: str | None
    operators: dict[str, int]
    footprint: Footprint | None


@dataclass(frozen=True)
class WorkloadReport:
    """The engines on one workload.

    Attributes:
        name: batch x tokens, and what the lengths are.
        batches: in the cycle.
        tokens: of a batch, without padding, on average.
        padded_tokens: with padding.
        engines: a latency each.
    """

    name: str
    batches: int
    tokens: float
    padded_tokens: float
    engines: list[Latency]


@dataclass(frozen=True)
class Profiled:
    """The profile of an engine on the first batch of a workload."""

    engine: str
    workload: str
    profile: Profile


@dataclass(frozen=True)
class Report:
    """Everything that a comparison found.

    Attributes:
        machine: where.
        reference: the engine that ratios are to.
        engines: in the order in which they ran.
        workloads: in the order asked for.
        peaks: of this machine, if profiled.
        profiles: likewise.
        warnings: what makes the numbers worse than they look.
    """

    machine: Machine
    reference: str
    engines: list[EngineReport]
    workloads: list[WorkloadReport]
    peaks: list[Peak]
    profiles: list[Profiled]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def noise(workloads: list[WorkloadReport]) -> list[str]:
    """A warning for every workload on which an engine's rounds differ by more than ``NOISE_LIMIT``."""
    warnings = []
    for workload in workloads:
        noisy = [one for one in workload.engines if one.spread > NOISE_LIMIT]
        if noisy:
            shown = ", ".join(f"{one.engine} {100 * one.spread:.0f} %" for one in noisy)
            warnings.append(
                f"{workload.name}: the rounds of {shown} differ by more than {100 * NOISE_LIMIT:.0f} %: the machine is"
                " too busy for these numbers"
            )
    return warnings

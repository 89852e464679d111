"""Memory and load time of one engine, measured in a process of its own.

A process that has held other engines cannot tell what one of them needs. ``python -m bqc.bench.footprint JOB.json``
is that process; ``measure`` starts it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bqc.errors import BqcError
from bqc.runtime.feeds import Feeds

__all__ = ["RUNS", "Footprint", "Sample", "measure", "measure_empty"]

RUNS = 10
"""Runs before memory is read."""


@dataclass(frozen=True)
class Sample:
    """What one process saw: seconds of session creation, and bytes of resident memory, at the end and at most."""

    load: float
    resident: int
    peak: int


@dataclass(frozen=True)
class Footprint:
    """One engine's memory in bytes and its load time in milliseconds.

    Attributes:
        load_ms: creation of the session, median of the processes.
        resident: RSS after the runs, largest of the processes; mapped pages of the file count.
        peak: largest RSS of the processes' life.
        resident_above_empty, peak_above_empty: the same less that of a process whose session is one Identity node.
    """

    load_ms: float
    resident: int
    peak: int
    resident_above_empty: int
    peak_above_empty: int

    @classmethod
    def of(cls, samples: list[Sample], empty: Sample) -> Footprint:
        """From the samples of several processes and that of the empty one."""
        resident = max(sample.resident for sample in samples)
        peak = max(sample.peak for sample in samples)
        load = statistics.median(sample.load for sample in samples)
        return cls(1e3 * load, resident, peak, resident - empty.resident, peak - empty.peak)


def measure(model: Path, feeds: Feeds, threads: int | None, folder: Path) -> Sample:
    """Load ``model`` in a fresh process and run it ten times on ``feeds``; ``folder`` takes temporary files.

    Raises:
        BqcError: the process failed; the message is its last line.
    """
    stored = folder / "footprint.npz"
    np.savez(stored, allow_pickle=False, **feeds)
    return _start({"model": str(model), "feeds": str(stored), "threads": threads}, folder)


def measure_empty(threads: int | None, folder: Path) -> Sample:
    """The same of a model of one node."""
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "empty.onnx"))
    return measure(folder / "empty.onnx", {"x": np.zeros(1, np.float32)}, threads, folder)


def _start(job: dict[str, object], folder: Path) -> Sample:
    file = folder / "footprint.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "bqc.bench.footprint", str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise BqcError(f"{job['model']}: measuring its memory failed: {lines[-1]}")
    return Sample(**json.loads(done.stdout))


def _status(key: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise BqcError(f"/proc/self/status has no {key}")


def _main() -> None:
    import bqc

    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with np.load(job["feeds"]) as stored:
        feeds = {name: stored[name] for name in stored.files}
    start = time.perf_counter()
    session = bqc.session(job["model"], threads=job["threads"])
    load = time.perf_counter() - start
    for _ in range(RUNS):
        session.run(None, feeds)
    print(json.dumps(asdict(Sample(load, _status("VmRSS"), _status("VmHWM")))))


if __name__ == "__main__":
    _main()

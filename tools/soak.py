"""Run one compiled model from many threads for a while: same bits every time, and no growing memory.

python tools/soak.py MODEL.bqc.onnx [--seconds 300] [--threads 2] [--callers 2] [--sessions 1]
python tools/soak.py MODEL.bqc.onnx --runs 10000

Shapes are drawn at random, with right and left padding. Exit status 1 if any output differs from the first run of the
same inputs, or if resident memory grows by more than 32 MiB after the first tenth of the time. With ``--runs`` one
thread makes so many, and memory may grow by 1 MiB after the first tenth.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

import bqc
from bqc.runtime.feeds import random_batches
from bqc.runtime.inputs import EncoderInputs

GROWTH_MIB = 32
RUNS_GROWTH_MIB = 1


def resident() -> float:
    """Resident memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def cases(session: onnxruntime.InferenceSession, count: int) -> list[dict[str, np.ndarray]]:
    """Inputs of many shapes; the token ids and types are in range for any BERT."""
    inputs = EncoderInputs.of(session)
    random = np.random.default_rng(0)
    shapes = [(int(random.integers(1, 9)), int(random.integers(1, 129))) for _ in range(count)]
    batches = [next(iter(random_batches(100, 2, b, b, s, seed))) for seed, (b, s) in enumerate(shapes)]
    return [inputs.feeds(batch) for batch in batches]


def soak(model: Path, seconds: float, threads: int, callers: int, sessions: int) -> tuple[int, int, float]:
    """Runs made, runs whose bits differ, and growth of memory in MiB; callers take turns at the sessions."""
    every = [bqc.session(model, strict=True, threads=threads) for _ in range(sessions)]
    feeds = cases(every[0], 64)
    expected = [every[0].run(None, feed)[0].tobytes() for feed in feeds]
    started = time.monotonic()

    def call(seed: int) -> tuple[int, int, float]:
        random = np.random.default_rng(seed)
        session = every[seed % sessions]
        runs = wrong = 0
        settled = 0.0
        while (elapsed := time.monotonic() - started) < seconds:
            i = int(random.integers(len(feeds)))
            wrong += session.run(None, feeds[i])[0].tobytes() != expected[i]
            runs += 1
            if elapsed > seconds / 10 and not settled:
                settled = resident()
        return runs, wrong, settled

    with ThreadPoolExecutor(callers) as pool:
        results = list(pool.map(call, range(callers)))
    runs, wrong, settled = (list(column) for column in zip(*results, strict=True))
    return sum(runs), sum(wrong), resident() - max(settled)


def steady(model: Path, runs: int, threads: int) -> tuple[int, float]:
    """Runs whose bits differ, and growth of memory in MiB after the first tenth of the runs."""
    session = bqc.session(model, strict=True, threads=threads)
    feeds = cases(session, 16)
    expected = [session.run(None, feed)[0].tobytes() for feed in feeds]
    wrong, settled = 0, 0.0
    for i in range(runs):
        wrong += session.run(None, feeds[i % 16])[0].tobytes() != expected[i % 16]
        if i == runs // 10:
            settled = resident()
    return wrong, resident() - settled


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Same bits and steady memory for as long as it takes.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--runs", type=int)
    arguments = parser.parse_args()
    if arguments.runs is not None:
        wrong, growth = steady(arguments.model, arguments.runs, arguments.threads)
        print(
            f"{arguments.runs} runs, {wrong} with other bits, memory grew by {growth:.2f} MiB after the first tenth"
        )
        return int(wrong > 0 or growth > RUNS_GROWTH_MIB)
    runs, wrong, growth = soak(
        arguments.model, arguments.seconds, arguments.threads, arguments.callers, arguments.sessions
    )
    print(
        f"{runs} runs from {arguments.callers} threads in {arguments.sessions} sessions, {wrong} with other bits, "
        f"memory grew by {growth:.1f} MiB"
    )
    return int(wrong > 0 or growth > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())

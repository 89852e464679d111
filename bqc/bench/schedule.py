"""When which engine runs: in alternating blocks, because engines in one process steal each other's cores and caches.

ONNX Runtime's thread pools spin for a while after a run, so engines that take turns run by run all come out slower,
unevenly. A block is a pause, a cold run, warm-up runs, then the runs that count; the next engine follows, and all
of it is repeated in rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Block", "Plan", "Run", "alternate"]

Run = Callable[[int], None]
"""Runs an engine on the batch with this index."""

_LEAST_RUNS, _MOST_RUNS = 3, 1000


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    Attributes:
        rounds: blocks of every engine.
        seconds: of counted runs in a block; at least 3 runs, at most 1000, always whole cycles of the batches.
        warm_ups: runs before the counted ones; the first of them is the cold run.
        pause: seconds before a block, in which other engines' threads go to sleep.
    """

    rounds: int = 3
    seconds: float = 2.0
    warm_ups: int = 2
    pause: float = 0.1


@dataclass(frozen=True)
class Block:
    """One turn of one engine, in seconds: its first run, right after another engine, and its counted runs."""

    cold: float
    runs: list[float]


def alternate(
    engines: Mapping[str, Run],
    plan: Plan,
    batches: int = 1,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, list[Block]]:
    """The blocks of every engine, one a round, in the order of ``engines``.

    Args:
        engines: name -> what runs it.
        plan: how long and how often.
        batches: length of the cycle of batches; run i of a block is on batch i modulo ``batches``.
        clock: the time in seconds.
        sleep: waits for so many seconds.
        progress: called after every block.
    """

    def timed(run: Run, batch: int) -> float:
        start = clock()
        run(batch)
        return clock() - start

    def block(run: Run, runs: int) -> Block:
        sleep(plan.pause)
        warm = [timed(run, i % batches) for i in range(max(plan.warm_ups, 1))]
        return Block(warm[0], [timed(run, i % batches) for i in range(runs)])

    runs = {}
    for name, run in engines.items():
        block(run, batches)  # an engine's very first runs allocate its memory
        cycle = sum(block(run, batches).runs)
        wanted = _LEAST_RUNS if cycle <= 0 else plan.seconds * batches / cycle
        clipped = min(max(wanted, _LEAST_RUNS), _MOST_RUNS)
        runs[name] = batches * math.ceil(clipped / batches)
    found: dict[str, list[Block]] = {name: [] for name in engines}
    for _ in range(plan.rounds):
        for name, run in engines.items():
            found[name].append(block(run, runs[name]))
            progress()
    return found

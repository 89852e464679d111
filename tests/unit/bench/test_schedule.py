"""The order of runs, on a clock of its own."""

from __future__ import annotations

from bqc.bench.schedule import Block, Plan, Run, alternate


class Bench:
    """Engines that take a fixed time on a fake clock, longer after a pause, and a log of what happened."""

    def __init__(self, cold: float = 0.0, **seconds: float) -> None:
        self.now = 0.0
        self.cold = cold
        self.log: list[str] = []
        self.engines = {name: self._engine(name, time) for name, time in seconds.items()}

    def _engine(self, name: str, seconds: float) -> Run:
        def run(batch: int) -> None:
            self.now += seconds + (self.cold if self.log[-1] == "pause" else 0.0)
            self.log.append(f"{name}{batch}")

        return run

    def sleep(self, seconds: float) -> None:
        self.log.append("pause")
        self.now += seconds

    def blocks(self) -> list[list[str]]:
        """The runs between pauses."""
        found: list[list[str]] = []
        for event in self.log:
            found.append([]) if event == "pause" else found[-1].append(event)
        return found


def run(bench: Bench, plan: Plan, batches: int = 1) -> dict[str, list[Block]]:
    return alternate(bench.engines, plan, batches, clock=lambda: bench.now, sleep=bench.sleep)


def test_engines_alternate_in_blocks_not_in_runs() -> None:
    bench = Bench(a=0.125, b=0.25)
    found = run(bench, Plan(rounds=3, seconds=1.0))
    # Two blocks an engine find out how many runs fit; then a and b in turns, each with a cold and a warm-up run.
    assert [block[0] for block in bench.blocks()] == ["a0", "a0", "b0", "b0", *["a0", "b0"] * 3]
    assert all(len(set(block)) == 1 for block in bench.blocks())
    assert [len(block) for block in bench.blocks()[4:]] == [2 + 8, 2 + 4] * 3
    assert [len(block.runs) for block in found["a"]] == [8, 8, 8]
    assert [len(block.runs) for block in found["b"]] == [4, 4, 4]


def test_cold_and_warm_up_runs_do_not_count() -> None:
    bench = Bench(cold=7.0, a=0.5)
    (block,) = run(bench, Plan(rounds=1, seconds=2.0))["a"]
    assert block.cold == 7.5
    assert block.runs == [0.5] * 4


def test_a_pause_comes_before_every_block() -> None:
    bench = Bench(a=1.0)
    run(bench, Plan(rounds=1, seconds=1.0, pause=0.25))
    assert bench.log.count("pause") == 3
    assert bench.now == 3 * 0.25 + (3 + 3 + 2 + 3) * 1.0


def test_runs_have_a_floor_and_a_ceiling() -> None:
    bench = Bench(slow=100.0, fast=1e-6)
    found = run(bench, Plan(rounds=1, seconds=1.0))
    assert len(found["slow"][0].runs) == 3
    assert len(found["fast"][0].runs) == 1000


def test_whole_cycles_of_batches() -> None:
    bench = Bench(a=0.1)
    (block,) = run(bench, Plan(rounds=1, seconds=0.9), batches=4)["a"]
    assert len(block.runs) == 12
    assert bench.blocks()[-1] == ["a0", "a1", *["a0", "a1", "a2", "a3"] * 3]


def test_progress_after_every_block() -> None:
    bench = Bench(a=0.1, b=0.1)
    calls: list[int] = []
    alternate(
        bench.engines,
        Plan(rounds=2, seconds=0.1),
        clock=lambda: bench.now,
        sleep=bench.sleep,
        progress=lambda: calls.append(len(bench.blocks())),
    )
    assert calls == [5, 6, 7, 8]

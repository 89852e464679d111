"""Numbers from synthetic run times."""

from __future__ import annotations

import pytest

from bqc.bench.latency import percentile, summarize
from bqc.bench.report import NOISE_LIMIT, WorkloadReport, noise
from bqc.bench.schedule import Block


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([5.0], 1) == 5.0


def test_ratios_are_taken_within_a_round() -> None:
    # The machine slows down by 2 from round to round; the ratio does not.
    base = [Block(9.0, [1.0]), Block(9.0, [2.0]), Block(9.0, [4.0])]
    fast = [Block(3.0, [0.5]), Block(2.0, [1.0]), Block(1.0, [1.0])]
    reference, found = summarize({"base": base, "fast": fast}, "base", 1, 10)
    assert (reference.ratio, reference.ratio_min, reference.ratio_max) == (1, 1, 1)
    assert (found.ratio, found.ratio_min, found.ratio_max) == (2, 2, 4)
    assert found.steady_ms == 1000
    assert found.cold_ms == 2000
    assert found.tokens_per_second == 10
    assert found.runs == 3
    assert reference.spread == pytest.approx((4 - 1) / 2)


def test_one_slow_run_is_in_the_tail_and_not_in_the_steady_time() -> None:
    blocks = [Block(1.0, [1.0] * 32 + [50.0]) for _ in range(3)]
    (found,) = summarize({"a": blocks}, "a", 1, 1)
    assert found.steady_ms == 1000
    assert found.p50_ms == found.p90_ms == 1000
    assert found.p99_ms == 50000
    assert found.spread == 0


def test_steady_time_of_a_cycle_is_the_mean_over_its_batches() -> None:
    # Batches of 1 and 3 seconds; the median over all runs would be neither's.
    (found,) = summarize({"a": [Block(1.0, [1.0, 3.0, 1.0, 3.0, 9.0, 3.0])]}, "a", 2, 8)
    assert found.steady_ms == 2000
    assert found.tokens_per_second == 4


def test_noise_is_told_by_name_and_only_above_the_limit() -> None:
    def report(spread: float) -> WorkloadReport:
        blocks = {
            "quiet": [Block(1, [1.0]), Block(1, [1.0])],
            "loud": [Block(1, [1.0]), Block(1, [1.0 + spread])],
        }
        return WorkloadReport("1x16", 1, 16, 16, summarize(blocks, "quiet", 1, 16))

    assert noise([report(NOISE_LIMIT / 2)]) == []
    (line,) = noise([report(1.0)])
    assert line.startswith("1x16: the rounds of loud 67 % differ by more than 10 %")
    assert "quiet" not in line

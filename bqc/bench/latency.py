"""From blocks of run times to the numbers that are reported."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bqc.bench.schedule import Block

__all__ = ["Latency", "percentile", "summarize"]


@dataclass(frozen=True)
class Latency:
    """One engine on one workload. Times are milliseconds of one batch.

    Attributes:
        engine: its name.
        runs: counted runs, of all rounds.
        steady_ms: median over the rounds of a block's steady time: the mean over the batches of the median of their
            runs.
        p50_ms, p90_ms, p99_ms: percentiles of all counted runs.
        cold_ms: median over the rounds of the first run after another engine.
        spread: (largest - smallest) / median of the rounds' steady times.
        tokens_per_second: tokens that are no padding, by the steady time.
        ratio: median over the rounds of the reference's steady time / this engine's in the same round: above 1 is
            faster.
        ratio_min, ratio_max: the smallest and the largest of those.
    """

    engine: str
    runs: int
    steady_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    cold_ms: float
    spread: float
    tokens_per_second: float
    ratio: float
    ratio_min: float
    ratio_max: float


def summarize(
    blocks: Mapping[str, Sequence[Block]], reference: str, batches: int, tokens: float
) -> list[Latency]:
    """A ``Latency`` an engine, in the order of ``blocks``.

    Args:
        blocks: engine -> its blocks, one a round.
        reference: the engine that ratios are to.
        batches: length of the cycle of batches.
        tokens: tokens of a batch that are no padding, on average over the cycle.
    """
    steady = {engine: [_steady(block, batches) for block in found] for engine, found in blocks.items()}
    latencies = []
    for engine, found in blocks.items():
        own = steady[engine]
        middle = statistics.median(own)
        ratios = [base / one for base, one in zip(steady[reference], own, strict=True)]
        runs = [1e3 * run for block in found for run in block.runs]
        latencies.append(
            Latency(
                engine=engine,
                runs=len(runs),
                steady_ms=1e3 * middle,
                p50_ms=percentile(runs, 50),
                p90_ms=percentile(runs, 90),
                p99_ms=percentile(runs, 99),
                cold_ms=1e3 * statistics.median(block.cold for block in found),
                spread=(max(own) - min(own)) / middle,
                tokens_per_second=tokens / middle,
                ratio=statistics.median(ratios),
                ratio_min=min(ratios),
                ratio_max=max(ratios),
            )
        )
    return latencies


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def _steady(block: Block, batches: int) -> float:
    return statistics.fmean(statistics.median(block.runs[i::batches]) for i in range(batches))

"""What this machine can do at most: the yardstick of a profile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import get_args

from bqc.runtime.native import Arithmetic, NativeLibrary

__all__ = ["Peak", "best", "measure_peaks"]


@dataclass(frozen=True)
class Peak:
    """GMAC/s of all threads together at an ISA level, in an arithmetic."""

    level: str
    arithmetic: Arithmetic
    gmacs: float


def measure_peaks(library: NativeLibrary, threads: int, seconds: float = 0.3) -> list[Peak]:
    """Every ISA level that this CPU can run, in every arithmetic; each takes about ``seconds``."""
    peaks = []
    with ThreadPoolExecutor(threads) as pool:
        for level in library.build_info()["levels"]:
            for arithmetic in get_args(Arithmetic):
                jobs = [pool.submit(library.peak, level, arithmetic, seconds) for _ in range(threads)]
                gmacs = sum(job.result() for job in jobs)
                if gmacs:
                    peaks.append(Peak(level, arithmetic, gmacs))
    return peaks


def best(peaks: list[Peak]) -> dict[str, float]:
    """Arithmetic -> the GMAC/s of its fastest level."""
    return {
        kind: max(p.gmacs for p in peaks if p.arithmetic == kind) for kind in {p.arithmetic for p in peaks}
    }

"""A few hundred of the mutations of tools/fuzz.py, which runs ten thousand."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tools.fuzz import Base, _Worker, fuzz


def test_no_crash_no_hang_no_other_bits() -> None:
    outcomes, failures = fuzz(first=0, count=300)
    assert not failures
    assert sum(outcomes.values()) == 300
    for expected in ("artifact: refused", "artifact: accepted", "float: refused", "inputs: refused"):
        assert outcomes[expected] > 0


def test_the_fuzzer_notices_crashes_and_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(name: str, *signals: signal.Signals) -> str:
        worker = _Worker(Base(tmp_path), tmp_path / name)
        os.kill(worker.process.pid, signal.SIGSTOP)  # so that it does not answer first
        worker.give(0)
        for number in signals:
            os.kill(worker.process.pid, number)
        while (found := worker.take()) is None:
            time.sleep(0.01)
        return found

    assert outcome("a", signal.SIGSEGV, signal.SIGCONT) == f"crash {-signal.SIGSEGV}"
    monkeypatch.setattr("tools.fuzz.TIMEOUT", 0.0)
    assert outcome("b") == "hang"

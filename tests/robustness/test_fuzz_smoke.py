"""A few hundred of the mutations of tools/fuzz.py, which runs ten thousand."""

from __future__ import annotations

from tools.fuzz import fuzz


def test_no_crash_no_hang_no_other_bits() -> None:
    outcomes, failures = fuzz(first=0, count=300)
    assert not failures
    assert sum(outcomes.values()) == 300
    for expected in ("artifact: refused", "artifact: accepted", "float: refused", "inputs: refused"):
        assert outcomes[expected] > 0

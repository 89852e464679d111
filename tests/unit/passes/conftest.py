"""Pipelines that these tests run are verified pass by pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bqc.pipeline import watching
from tests.support.verifying import VerifyOnce


@pytest.fixture(autouse=True)
def verify_each(tmp_path: Path) -> Iterator[VerifyOnce]:
    """A `Finding` in any pipeline of the test, unless the same pass did the same before."""
    with watching([once := VerifyOnce(reproducers=tmp_path / "reproducer")]):
        yield once

"""Instruction sets and optimisation levels to sweep over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bqc.errors import BqcError
from bqc.runtime.library import LEVEL_VARIABLE, LEVELS
from bqc.runtime.native import native
from bqc.runtime.sweep import isa_levels, isa_session, ort_level_session
from tests.support.tiny_encoder import write_classifier


def test_all_is_every_level_that_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    found = isa_levels(["all"])
    assert found[0] == "portable"
    assert found[-1] == native().isa()
    assert found == [level for level in LEVELS if level in found]
    assert LEVEL_VARIABLE not in os.environ


def test_levels_that_do_not_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bqc.runtime.sweep._runs", lambda level: level != "avx512")
    with pytest.raises(BqcError, match="avx512 does not run on this CPU; there are portable, avx2"):
        isa_levels(["portable", "avx512"])
    with pytest.raises(BqcError, match="sse is no instruction set level"):
        isa_levels(["sse"])


def test_the_environment_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "avx2")
    path = write_classifier(tmp_path / "m.onnx")
    isa_session(path, "portable")
    assert os.environ[LEVEL_VARIABLE] == "avx2"
    with pytest.raises(BqcError):
        isa_session(tmp_path / "none.onnx", "portable")
    assert os.environ[LEVEL_VARIABLE] == "avx2"
    with pytest.raises(BqcError, match="highest is no optimisation level"):
        ort_level_session(path, "highest")

"""`require_full`: what stays float is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

import bqc
from bqc.errors import BqcError
from bqc.ir.synthetic import canonical_bert


def test_a_whole_encoder_passes(tmp_path: Path) -> None:
    assert bqc.compile(canonical_bert(), output=tmp_path / "full.onnx", require_full=True).paths


def test_what_is_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(BqcError, match=r"--require-full asks: .*ffn"):
        bqc.compile(
            canonical_bert(),
            output=tmp_path / "part.onnx",
            require_full=True,
            exclude=("0:ffn.intermediate",),
        )
    assert not list(tmp_path.iterdir())

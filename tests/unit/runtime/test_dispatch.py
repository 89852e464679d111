"""What the kernel library says about its choice of kernels."""

from __future__ import annotations

import re
from pathlib import Path

import onnx_ir as ir
import pytest

import bqc
from bqc.ir.synthetic import canonical_bert
from bqc.ops.registry import OPERATORS
from bqc.runtime.native import native
from bqc.runtime.scan import bqc_nodes

LINE = re.compile(r"bqc: (\S+) (\w+) -> (\w+), (.+) \((.+)\)")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dispatch")
    ir.save(canonical_bert(layers=1), folder / "model.onnx")
    bqc.compile(folder / "model.onnx", output=folder / "model.bqc.onnx")
    return folder / "model.bqc.onnx"


def test_verbose_names_kernel_and_reason_of_every_node(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BQC_VERBOSE", "1")
    monkeypatch.setenv("BQC_MAX_ISA", "portable")
    bqc.session(model, strict=True)
    lines = [LINE.fullmatch(line) for line in capfd.readouterr().err.splitlines()]
    assert all(lines)
    assert {match[1]: match[2] for match in lines} == {node.name: node.op_type for node in bqc_nodes(model)}
    assert {match[3] for match in lines} == {"portable"}
    assert {match[5] for match in lines} == {"BQC_MAX_ISA=portable"}
    by = {match[2]: match[4] for match in lines}
    assert by["BlockLinearGelu"] == by["BlockAttention"] == "plain loops"
    assert by["EmbeddingLayerNorm"] == "loops compiled for portable"


@pytest.mark.parametrize("value", ["", "0"])
def test_silent_otherwise(
    value: str, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BQC_VERBOSE", value)
    bqc.session(model, strict=True)
    assert capfd.readouterr().err == ""


def test_families_are_of_all_operators_at_all_levels() -> None:
    families = native().families()
    levels = native().build_info()["levels"]
    named = [name for family in families for name in family.operators]
    assert len(set(named)) == len(named)
    # These stand in graphs only until they are folded.
    without = {name for name, operator in OPERATORS.items() if not operator.has_kernel}
    assert set(OPERATORS) - set(named) == without
    assert all(list(family.levels) == levels for family in families)
    (linear,) = [family for family in families if family.name == "linear"]
    assert all(support.weight_bits == (2, 3, 4, 6, 8) for support in linear.levels.values())

"""What the kernel library says about its choice of kernels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx_ir as ir
import pytest

import bqc
from bqc.cli import main
from bqc.ir.synthetic import canonical_bert
from bqc.ops.registry import OPERATORS
from bqc.runtime.native import native
from bqc.runtime.scan import bqc_nodes, nodes

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


def test_doctor_says_how_the_nodes_of_a_model_run(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BQC_MAX_ISA", "portable")
    assert main(["doctor", str(model), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["model"]
    assert [(run["node"], run["op_type"]) for run in runs["nodes"]] == [
        (node.name, node.op_type) for node in bqc_nodes(model)
    ]
    assert {(run["level"], run["reason"]) for run in runs["nodes"]} == {("portable", "BQC_MAX_ISA=portable")}
    assert sum(runs["standard"].values()) == len(nodes(model)) - len(bqc_nodes(model)) > 0
    assert main(["doctor", str(model)]) == 0
    text = capsys.readouterr().out
    assert f"[✓] {model}: {len(bqc_nodes(model))} ai.bqc nodes" in " ".join(text.split())
    assert "run by ONNX Runtime's own kernels" in text
    assert "attention kernels" not in text


def test_doctor_names_nodes_without_a_kernel(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = bqc_nodes(model)[0].name
    kept = native().kernels
    monkeypatch.setattr(
        type(native()), "kernels", lambda self: [kernel for kernel in kept() if kernel.node != first]
    )
    assert main(["doctor", str(model), "--json"]) == 1
    runs = json.loads(capsys.readouterr().out)["model"]["nodes"]
    assert [run["node"] for run in runs if run["level"] == "body"] == [first]
    assert main(["doctor", str(model)]) == 1
    assert "[x]" in capsys.readouterr().out


def test_doctor_on_what_is_no_compiled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ir.save(canonical_bert(layers=1), tmp_path / "float.onnx")
    assert main(["doctor", str(tmp_path / "float.onnx")]) == 0
    assert "no ai.bqc nodes" in " ".join(capsys.readouterr().out.split())
    assert main(["doctor", str(tmp_path / "nothing.onnx")]) == 2
    assert capsys.readouterr().err == f"bqc: error: {tmp_path}/nothing.onnx: no such file\n"
    (tmp_path / "broken.onnx").write_bytes(b"x" * 40)
    assert main(["doctor", str(tmp_path / "broken.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


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

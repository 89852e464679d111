"""`bqc opt`: the same passes from the command line, watched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from bqc.cli import main
from bqc.ir.synthetic import canonical_bert


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ir.save(canonical_bert(layers=1, hidden=32, heads=2, ffn=48), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_half_lowered_model_runs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "half.onnx"
    arguments = ["opt", str(model), "--scheme", "bbct", "--until", "fold-matmul", "-o", str(out), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert report["passes"][-1]["pass"] == "fold-matmul"
    assert report["passes"][-1]["rewrites"] > 0
    assert report["passes"][1]["within"] == ["import-canonicalize"]
    assert "ai.bqc.BlockLinear+" in report["passes"][-1]["changes"]
    ids = np.ones((2, 5), np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids}
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, feeds)[0]).all()


def test_printing_and_dumping(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = tmp_path / "dump"
    pipeline = "annotate-sensitivity{bits=8 block=16},plan-bbct{block=16},quantize-weights"
    arguments = [
        "opt",
        str(model),
        "-p",
        pipeline,
        "--print-after",
        "quantize-weights",
        "--dump-dir",
        str(dump),
    ]
    assert main([*arguments, "--timing", "--stats"]) == 0
    text = capsys.readouterr().out
    assert text.count("// after") == 1
    assert "BlockDequantize" in text
    names = sorted(p.name for p in dump.glob("*.onnx"))
    assert names == [
        "00-input.onnx",
        "01-annotate-sensitivity.onnx",
        "02-plan-bbct.onnx",
        "03-quantize-weights.onnx",
    ]
    assert onnx.load(dump / names[-1]).graph.node


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "fold-gelu", "--scheme", "bbct"], "either --passes or --scheme"),
        ([], "either --passes or --scheme"),
        (["-p", "quantize-weights"], "no plan: run a plan pass"),
        (["--scheme", "bbct", "--until", "fold-glue"], "did you mean fold-gelu?"),
    ],
)
def test_bad_calls(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["opt", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err

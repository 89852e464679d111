"""``bqc bench`` on a tiny encoder: its output in every form, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest

from bqc.cli import main
from bqc.ir.synthetic import canonical_bert

QUICK = ["--rounds", "2", "--seconds", "0.01", "--threads", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "model.onnx"
    ir.save(canonical_bert(layers=1), path)
    return path


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(model), "--shape", "2x8", "--profile", "--json", *QUICK]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert set(report) == {
        "schema_version",
        "machine",
        "reference",
        "engines",
        "workloads",
        "peaks",
        "profiles",
        "warnings",
    }
    assert set(report["machine"]) == {"cpu", "cores", "load_average", "threads", "onnxruntime"}
    (engine,) = report["engines"]
    assert set(engine) == {"name", "file", "operators", "footprint"}
    assert set(engine["footprint"]) == {
        "load_ms",
        "resident",
        "peak",
        "resident_above_empty",
        "peak_above_empty",
    }
    (workload,) = report["workloads"]
    assert set(workload) == {"name", "batches", "tokens", "padded_tokens", "engines"}
    assert set(workload["engines"][0]) == {
        "engine",
        "runs",
        "steady_ms",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "cold_ms",
        "spread",
        "tokens_per_second",
        "ratio",
        "ratio_min",
        "ratio_max",
    }
    (profiled,) = report["profiles"]
    assert set(profiled["profile"]) == {"milliseconds", "operators", "roles", "between"}
    assert set(profiled["profile"]["operators"][0]) == {
        "name",
        "nodes",
        "milliseconds",
        "share",
        "macs",
        "gmacs",
        "of_peak",
    }
    assert set(report["peaks"][0]) == {"level", "arithmetic", "gmacs"}


def test_tables_and_page(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "bench.html"
    args = [
        "bench",
        str(model),
        "--shape",
        "1x8",
        "--shape",
        "2x4",
        "--no-memory",
        "--html",
        str(page),
        *QUICK,
    ]
    assert main([*args, "--baseline", "ort-fp32", "--relative-to", "model.onnx"]) == 0
    text = capsys.readouterr().out
    assert "1x8 (batch of 8 tokens, 8 padded)" in text
    assert "2x4 (batch of 8 tokens, 8 padded)" in text
    assert "to model.onnx" in text
    assert "memory in MiB" not in text
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_varying_lengths(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(model), "--shape", "2x16", "--no-memory", "--lengths", "cola", *QUICK]) == 0
    assert "2x16 cola (8 batches of " in capsys.readouterr().out
    assert main(["bench", str(model), "--shape", "2x16", "--no-memory", "--random", *QUICK]) == 0
    assert "2x16 random (8 batches of " in capsys.readouterr().out


def test_quiet(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(model), "--shape", "1x8", "--no-memory", "-q", *QUICK]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing argument"),
        (["none.onnx"], "none.onnx: no such file"),
        (["{model}", "{model}"], "given twice"),
        (["{model}", "--shape", "16"], "8x64"),
        (["{model}", "--random", "--lengths", "sst2"], "exclude each other"),
        (["{model}", "--data", "."], "--data needs --lengths"),
        (["{model}", "--lengths", "squad"], "no built-in lengths of 'squad'"),
        (["{model}", "--baseline", "ort-fp16"], "no baseline 'ort-fp16'"),
        (["{model}", "--relative-to", "x"], "no engine 'x'"),
        (["{model}", "--html", "/proc/new/x.html"], "/proc/new/x.html: cannot be written: "),
        (
            ["{model}", "--shape", "1x65", "--no-memory"],
            "and the model has positions for 64; give --shape 1x64",
        ),
    ],
)
def test_refusals(args: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *(arg.format(model=model) for arg in args)]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0].startswith("bqc: error: ")
    assert message in captured.err.splitlines()[0]
    assert captured.out == ""

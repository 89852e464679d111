"""`bqc opt`: the same passes from the command line, watched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.cli import main
from bqc.ir.synthetic import canonical_bert
from bqc.ir.text import from_text, split, to_text
from bqc.pipeline import Changes


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
        (["-p", "fold-gelu", "-o", "-", "--json"], "--json and -o - both print"),
        (["-p", "fold-gelu", "-o", "x.onnx", "--split-input"], "leave out -o and --weights"),
        (["-p", "fold-gelu", "--split-input"], "not UTF-8 text"),
        (["-p", "fold-gelu", "--split-input", "--json"], "--json and --split-input both print"),
        (["-p", "fold-gelu", "--print-after", "fold-glue"], "no pass 'fold-glue'; did you mean fold-gelu?"),
        (["-p", "fold-gelu", "--print-before", "fold-gelu,"], "no pass ''"),
        (["-p", "annotate-sensitivity", "--dump-dir", "/dev/null/dump"], "/dev/null/dump: cannot be written"),
    ],
)
def test_bad_calls(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["opt", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_standard_output_has_the_result_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = ["-p", "annotate-sensitivity", "--stats", "--timing", "--print-after", "all"]
    assert main(["opt", str(model), *watched, "-o", "-"]) == 0
    out, err = capsys.readouterr()
    piece = to_text(from_text(out))
    assert piece == out
    assert [err.count(title) for title in ("// after", "timing", "stats")] == [1, 1, 1]

    assert main(["opt", str(model), *watched, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["pipeline"] == "annotate-sensitivity"
    assert err.startswith("// after annotate-sensitivity")

    (tmp_path / "two.onnxtxt").write_text(f"{piece}// -----\n{piece}")
    assert main(["opt", str(tmp_path / "two.onnxtxt"), "-p", "fold-gelu", "--stats", "--split-input"]) == 0
    out, err = capsys.readouterr()
    assert len([from_text(one) for one in split(out)]) == 2
    assert err.count("stats") == 1

    assert main(["opt", "-p", "fold-gelu,plan-bbct{block=row}", "--print-pipeline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pipeline"] == "fold-gelu,plan-bbct{block=row}"


def test_passes_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["opt", "--list-passes"]) == 0
    assert "quantize-activations" in capsys.readouterr().out
    assert main(["opt", "--list-passes", "quantize-activations"]) == 0
    text = capsys.readouterr().out
    assert "contract: lossy (cosine 0.8), not idempotent" in text
    assert "y' = BlockDequantize(BlockQuantize(y))" in text
    assert main(["opt", "--list-passes", "plan-bbct", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["passes"]
    assert found["contract"]["numerics"] == "exact"
    points = found["options"][-1]
    assert (points["name"], points["default"]) == ("float_points", "")
    assert points["doc"].startswith("Points (patterns) that stay float")
    assert main(["opt", "--list-passes", "fold-glue"]) == 2
    assert "did you mean fold-gelu?" in capsys.readouterr().err


def test_parts_of_a_pass_are_shown(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["opt", str(model), "-p", "import-canonicalize", "--stats", "--timing"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.count("import-attention") == 2
    assert "import-gelu" not in text  # it found nothing
    assert main([*arguments, "-v", "--print-after", "import-gelu"]) == 0
    text = capsys.readouterr().out
    assert text.count("import-gelu") == 3


def test_a_limit_of_rewrites(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "some.onnx"
    arguments = ["opt", str(model), "-p", "annotate-sensitivity,plan-bbct,quantize-weights", "-o", str(out)]
    assert main([*arguments, "--rewrite-limit", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["rewrites"] for row in report["passes"]] == [1, 1, 3]
    assert sum(node.op_type == "BlockDequantize" for node in onnx.load(out).graph.node) == 3


def test_compile_takes_instruments(tmp_path: Path) -> None:
    changes = Changes()
    bqc.compile(canonical_bert(layers=1), output=tmp_path / "m.onnx", instruments=[changes])
    names = [row.step.name for row in changes.rows if row.step is not None]
    assert names[0] == "import-canonicalize"
    assert {"import-gelu", "annotate-anatomy", "plan-bbct", "fold-gelu"} <= set(names)
    assert names[-1] == "finalize"


UNIT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x) => (float[2] y) <float[2] one = {1, 1}> {
   a = Identity (x)
   y = Mul (a, one) @0:ffn.gelu
}
"""


def test_text_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "unit.onnxtxt", tmp_path / "out.onnxtxt"
    source.write_text(UNIT)
    assert main(["opt", str(source), "-p", "import-fold", "-o", "-"]) == 0
    printed = capsys.readouterr().out
    assert "y = Mul (x, one) @0:ffn.gelu" in printed
    assert main(["opt", str(source), "-p", "import-fold", "-o", str(out)]) == 0
    assert out.read_text() == printed


@pytest.mark.parametrize("binary", [False, True])
def test_stdin(
    binary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "unit.onnxtxt"
    source.write_text(UNIT)
    if binary:
        assert main(["opt", str(source), "-p", "import-fold", "-o", str(tmp_path / "unit.onnx")]) == 0
        source = tmp_path / "unit.onnx"
        capsys.readouterr()
    with source.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["opt", "-", "-p", "import-fold", "-o", "-"]) == 0
    assert "y = Mul (x, one) @0:ffn.gelu" in capsys.readouterr().out


def test_elided_weights_come_back(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, binary, again = tmp_path / "m.onnxtxt", tmp_path / "again.onnx", tmp_path / "again.onnxtxt"
    assert main(["opt", str(model), "-p", "import-types", "-o", str(text)]) == 0
    assert main(["opt", str(text), "-p", "import-types", "-o", str(binary)]) == 2
    assert "give the model that has it: bqc opt --weights MODEL" in capsys.readouterr().err
    assert not binary.exists()
    assert main(["opt", str(text), "-p", "quantize-weights{}", "-o", "-"]) == 2
    assert main(["opt", str(text), "--weights", str(model), "-p", "import-types", "-o", str(binary)]) == 0
    assert main(["opt", str(binary), "-p", "import-types", "-o", str(again)]) == 0
    assert again.read_text() == text.read_text()


def test_split_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "units.onnxtxt"
    source.write_text(f"{UNIT}// -----\n{UNIT.replace('Mul (', 'Mul ')}// -----\n{UNIT}")
    assert main(["opt", str(source), "-p", "import-fold", "--split-input"]) == 2
    captured = capsys.readouterr()
    first, second, third = captured.out.split("// -----\n")
    assert first == third
    assert "y = Mul (x, one)" in first
    assert second == f"// error: {source}:10:12: expected '(' or '<' after an operator, found 'a'\n"
    assert "1 of 3 models failed" in captured.err

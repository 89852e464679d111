"""``bqc compile`` and ``bqc inspect`` on a small encoder, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest

from bqc.cli import main
from bqc.ir.synthetic import canonical_bert


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    ir.save(canonical_bert(layers=1), path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(model), "--scheme", "bbct"]) == 0
    lines = capsys.readouterr().out.splitlines()
    compiled = model.with_name("model.bqc.onnx")
    assert str(compiled) in lines
    assert compiled.is_file()
    assert main(["verify", str(compiled), "--against", str(model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["checks"]  # the scheme's own bounds came with the file


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(model), "--json", "--weight-bits", "4", "--block", "16", "--seed", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert report["paths"][0] == str(model.with_name("model.bqc.onnx"))
    assert "BlockShift(4,16)" in report["plan"]["weights"].values()


def test_dry_run_and_recipe(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    arguments = ["--exclude", "0:ffn.*", "--block", "row", "--dry-run", "--save-recipe", str(recipe)]
    assert main(["compile", str(model), *arguments]) == 0
    assert files(tmp_path) == ["model.onnx", "recipe.yaml"]
    assert main(["compile", str(model), "--recipe", str(recipe), "-q"]) == 0
    assert "model.bqc.onnx" in files(tmp_path)
    assert "BlockShift(8,row)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheme", "bbtc"], "did you mean bbct"),
        (["--exclude", "ffn.outptu"], "matches no weight"),
        (["--block-fallback", "error", "--block", "256"], "block"),
        (["--recipe", "none.yaml"], "none.yaml"),
    ],
)
def test_what_cannot_be_compiled_leaves_no_file(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(model), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("bqc: error: ")
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert files(model.parent) == ["model.onnx"]


def test_not_a_model_and_not_twice(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = model.with_name("text.onnx")
    text.write_text("not a model", encoding="utf-8")
    cut = model.with_name("cut.onnx")
    cut.write_bytes(model.read_bytes()[:-100])
    assert main(["compile", str(model), "-q"]) == 0
    before = files(model.parent)
    for path in (text, cut, model.with_name("model.bqc.onnx"), model.with_name("none.onnx"), model.parent):
        assert main(["compile", str(path)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "unexpected" not in lines[0]
    assert files(model.parent) == before


def test_inspect(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--json", "--shape", "2x16"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert report["anatomy"]["layers"] == 1
    assert (report["cost"]["batch"], report["cost"]["sequence"]) == (2, 16)
    assert main(["inspect", str(model)]) == 0
    text = capsys.readouterr().out
    assert "attention.query" in text
    assert "bit widths" in text

"""``bqc compile`` and ``bqc inspect`` on a small encoder, by the command line alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    shown = capsys.readouterr().out
    assert re.search(r"^recipe +\S", shown, re.MULTILINE)
    assert "no model: dry run" in shown
    assert "BlockShift(8,row)" in shown
    assert main(["compile", str(model), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "nothing: dry run" in shown
    assert not re.search(r"^recipe ", shown, re.MULTILINE)
    assert main(["compile", str(model), "--json", "--save-recipe", str(recipe), *arguments[:4]]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["recipe"] == str(recipe)
    assert main(["compile", str(model), "--recipe", str(recipe), "-q"]) == 0
    assert "model.bqc.onnx" in files(tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheme", "bbtc"], "did you mean bbct"),
        (["--exclude", "ffn.outptu"], "matches no weight"),
        (["--block-fallback", "error", "--block", "256"], "block"),
        (["--recipe", "none.yaml"], "none.yaml"),
        (["--recipe", "none.yaml", "--max-error", "0.1"], "leave out --max-error or --recipe"),
        (
            ["--recipe", "none.yaml", "--weight-bits", "4", "--exclude", "0:*"],
            "a recipe is a whole plan: leave out --exclude, --weight-bits or --recipe",
        ),
        (
            ["--measure", "99999x16"],
            "99999x16: at most 65536 tokens are measured at once, as in 512x128",
        ),
        (["--measure", "1x65"], "the model has positions for 64 tokens; measure 1x64 or less"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measure", "16"], "'16' is not batch x sequence, both at least 1, as in 8x64"),
        (["--measure", "0x16"], "'0x16' is not batch x sequence, both at least 1"),
        (["--keep-dense"], "--keep-dense and --threads go with --measure BxS"),
        (["--threads", "2"], "--keep-dense and --threads go with --measure BxS"),
        (["--measure", "1x8", "--threads", "0"], "--threads"),
    ],
)
def test_options_of_measuring(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(model), *arguments]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("bqc: error: ")
    assert message in first
    assert files(model.parent) == ["model.onnx"]


def test_measured_formats(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", str(model), "--measure", "1x4"]
    assert main([*arguments, "--measure", "2x8", "--weight-bits", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["break_even"]
    assert set(report) == {"machine", "isa", "speeds", "floats"}
    assert report["floats"] == []
    assert report["machine"]["threads"] == 1
    first = report["speeds"][0]
    assert set(first) == {
        "format",
        "dense",
        "columns",
        "outputs",
        "linears",
        "rows",
        "milliseconds",
        "dense_milliseconds",
        "ratio",
        "ratio_min",
        "ratio_max",
        "slower",
        "kept_dense",
        "left",
    }
    assert (first["format"], first["dense"]) == ("BlockShift(4,64)", "BlockShift(8,64)")
    assert {speed["rows"] for speed in report["speeds"]} == {4, 16, 1, 2}
    assert main([*arguments, "--weight-bits", "4"]) == 0
    assert "products against dense 8 bits, 1 thread" in capsys.readouterr().out
    assert main([*arguments, "--threads", "2"]) == 0
    assert "nothing to measure: every linear is dense 8 bits" in capsys.readouterr().out


def test_linears_in_float_are_not_measured(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    arguments = ["compile", str(model), "--measure", "1x4"]
    assert main([*arguments, "--exclude", "0:ffn.output", "--save-recipe", str(recipe)]) == 0
    text = capsys.readouterr().out
    assert "1 linear runs in float and is not timed" in text
    assert "nothing to measure: every other linear is dense 8 bits" in text
    own = "  0:attention.output: "
    lines = recipe.read_text(encoding="utf-8").splitlines()
    changed = [f"{own}Sparse(2,4,8)" if line.startswith(own) else line for line in lines]
    recipe.write_text("\n".join(changed), encoding="utf-8")
    assert main([*arguments, "--recipe", str(recipe)]) == 0  # its input has another group
    assert "2 linears run in float and are not timed" in capsys.readouterr().out


def test_kept_dense(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bqc.bench import products

    real = products.time_product

    def slow(*args: Any) -> Any:
        return [(dense, replace(own, ratio=0.5, ratio_min=0.5, ratio_max=0.5)) for dense, own in real(*args)]

    monkeypatch.setattr(products, "time_product", slow)
    arguments = ["compile", str(model), "--weight-bits", "4", "--measure", "1x4"]
    assert main(arguments) == 0
    assert "4 rows: 0.50x, slower than dense 8 bits" in capsys.readouterr().out
    assert main([*arguments, "--keep-dense", "--save-recipe", str(tmp_path / "r.yaml")]) == 0
    assert "4 rows: 0.50x, kept dense" in capsys.readouterr().out
    assert "0:ffn.output: BlockShift(8,64)" in (tmp_path / "r.yaml").read_text(encoding="utf-8")
    floats = tmp_path / "floats.yaml"
    floats.write_text("bqc_recipe: 1\nscheme: bbct\nweights: {0:ffn.output: Half()}\n", encoding="utf-8")
    assert main(["compile", str(model), "--recipe", str(floats), "--measure", "1x4", "--keep-dense"]) == 0
    lines = " ".join(capsys.readouterr().out.split())
    assert "0.50x, slower than dense 8 bits; left: the plan gives its input no format" in lines


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

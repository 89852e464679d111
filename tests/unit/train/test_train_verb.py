"""What `bqc train` says, and what it finds before it trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from bqc.cli import main
from bqc.evaluate import evaluate
from bqc.ir import encoder, import_model
from bqc.train import loop, training
from tests.support.tiny_task import write_bert


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a model of four heads and 128 FFN neurons."""
    write_bert(tmp_path, hidden=64, heads=4, ffn=128)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config |= {"num_attention_heads": 4, "intermediate_size": 128, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is an error."""

    def run(*_: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(training, "run_stages", run)


def arguments(root: Path, *more: str, scheme: str = "binarybert") -> list[str]:
    asked = ["train", str(root / "model.onnx"), "--task", "sst2", "--data", str(root), "--scheme", scheme]
    return [*asked, "--limit", "8", *more]


QUICK = ("--weights", "binary", "--epochs", "1")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/proc/x/", "/proc/x/model.bqc.onnx: cannot be written: No such file or directory"),
        ("{root}/config.json/", "config.json/model.bqc.onnx: cannot be written: "),
        ("{root}/config.json/a.onnx", "config.json/a.onnx: cannot be written: "),
        ("{root}/taken/", "taken/model.bqc.onnx: cannot be written: Is a directory"),
    ],
)
@pytest.mark.parametrize("width", [(), ("--width", "0.5")])
def test_an_output_that_cannot_be_written_is_found_first(
    root: Path,
    output: str,
    message: str,
    width: tuple[str, ...],
    no_training: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (root / "taken" / "model.bqc.onnx").mkdir(parents=True)
    monkeypatch.setattr(training, "slimmed", None)
    assert main(arguments(root, *width, "-o", output.format(root=root))) == 2
    assert message in capsys.readouterr().err
    assert main(["compile", str(root / "model.onnx"), "-o", output.format(root=root)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_for_the_output_is_not_left_behind(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(root.iterdir())
    assert main(arguments(root, "-o", f"{root}/a/b/", "--teacher", str(root / "none.onnx"))) == 2
    assert "none.onnx" in capsys.readouterr().err
    assert set(root.iterdir()) == before


def test_a_slim_model_does_not_overwrite_the_wide_one(
    root: Path, no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(root, "--width", "0.5", "-o", str(root / "model.onnx"))) == 2
    assert "the output would overwrite the input" in capsys.readouterr().err


@pytest.mark.parametrize("width", [(), ("--width", "0.5")])
def test_the_tokenizer_may_lie_elsewhere(
    root: Path, width: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    other = root / "tokenizer"
    other.mkdir()
    shutil.move(root / "tokenizer.json", other)
    out = root / "out"
    assert main(arguments(root, *QUICK, *width, "-o", f"{out}/")) == 2
    assert f"no tokenizer.json in {root}: give its folder with --tokenizer DIR" in capsys.readouterr().err
    assert main(arguments(root, *QUICK, *width, "-o", f"{out}/", "--tokenizer", str(other), "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (out / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()
    assert str(out / "tokenizer.json") in found["paths"]
    assert evaluate(out / "model.bqc.onnx", "sst2", root).metrics == found["metrics"]


def test_what_a_width_keeps_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root / "out"
    asked = arguments(root, *QUICK, "--width", "0.3", "-o", f"{out}/", "--checkpoints", str(root / "run"))
    assert main(asked) == 0
    assert "0.3: 1 of 4 heads, 32 of 128 FFN neurons a layer" in capsys.readouterr().out
    for folder in (out, root / "run" / "slim", root / "run" / "slim" / "tuned"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes = {key: config[key] for key in ("num_attention_heads", "intermediate_size", "hidden_size")}
        assert sizes == {"num_attention_heads": 1, "intermediate_size": 32, "hidden_size": 64}
        assert config["id2label"] == {"0": "negative", "1": "positive"}
    slim = encoder(import_model(root / "run" / "slim" / "model.onnx")[0])
    assert (slim.heads, slim.ffn) == (1, 32)
    # Beside the wide model its configuration stays; a run that is resumed says what it kept, too.
    before = (root / "config.json").read_bytes()
    asked[asked.index(f"{out}/")] = f"{root}/"
    assert main([*asked, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == {
        "heads": 1, "ffn": 32, "heads_before": 4, "ffn_before": 128,
    }  # fmt: skip
    assert (root / "config.json").read_bytes() == before


def test_what_a_width_keeps_is_logged_before_it_is_trained(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = []

    def run(_: loop.Run) -> dict[str, float]:
        said.append(caplog.text)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "run_stages", run)
    with caplog.at_level("INFO", logger="bqc"):
        assert main(arguments(root, *QUICK, "--width", "0.3", "-o", f"{root}/out/")) == 130
    assert "width 0.3 keeps 1 of 4 heads, 32 of 128 FFN neurons a layer" in said[0]


def test_how_a_budget_is_used_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = arguments(root, "--epochs", "1", "--budget-mib", "0.025", "-o", f"{root}/out/")
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["budget"]
    assert (found["budget_mib"], found["split"]) == (0.025, True)
    assert found["two"] + found["one"] == 14
    assert 0 < found["two"] < 14
    assert 0.02 < found["used_mib"] <= 0.025
    asked = ["compile", str(root / "model.onnx"), "--scheme", "binarybert", "--budget-mib", "0.025"]
    assert main([*asked, "-o", f"{root}/out/", "--json"]) == 0
    said = f"{found['two']} weights ternary, {found['one']} binary: {found['used_mib']:.4g} of 0.025 MiB"
    assert json.loads(capsys.readouterr().out)["summary"]["budget"] == said


@pytest.mark.parametrize(
    ("scheme", "more", "message"),
    [
        ("binarybert", ["--epochs", "0"], "--epochs: Input should be greater than 0"),
        ("binarybert", ["--learning-rate", "nan"], "--learning-rate: Input should be a finite number"),
        ("none", ["--epochs", "inf"], "--epochs: Input should be a finite number"),
        ("bbct", ["--learning-rate", "-1"], "--learning-rate: Input should be greater than 0"),
        ("binarybert", ["--weight-bits", "4"], "scheme binarybert has no option --weight-bits"),
        ("bbct", ["--position-bits", "8"], "scheme bbct has no option --position-bits"),
        ("none", ["--budget-mib", "4"], "scheme none trains in float and has no option --budget-mib"),
        ("nope", ["--weight-bits", "4"], "unknown scheme 'nope'; did you mean none?"),
        (
            "binarybert",
            ["--learn", "pact"],
            "--learn is for static scales, which come with --activations static",
        ),
        (
            "binarybert",
            ["--activations", "dynamic", "--learn", "none"],
            "--learn is for static scales, which come with --activations static",
        ),
        ("bbct", ["--learn", "lsq"], "--learn is for static scales, which come with --activations static"),
        (
            "binarybert",
            ["--budget-mib", "0.0001"],
            "the budget is 0.0001 MiB; the weights take 0.0168 MiB with all of them binary",
        ),
    ],
)
def test_options_are_named_as_they_are_typed(
    root: Path,
    scheme: str,
    more: list[str],
    message: str,
    no_training: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments(root, *more, scheme=scheme)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_compile_names_options_as_they_are_typed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--weight-bits", "--max-error"):
        assert main(["compile", str(root / "model.onnx"), "--scheme", "binarybert", option, "4"]) == 2
        assert f"scheme binarybert has no option {option}\n" in capsys.readouterr().err


def own_rows(root: Path) -> Path:
    """train.csv and dev.csv of the tiny task, with columns of other names."""
    folder = root / "own"
    folder.mkdir()
    for split in ("train", "dev"):
        lines = (root / "glue" / "SST-2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        rows = "".join(f'"{text}",{label}\n' for text, label in (line.split("\t") for line in lines))
        (folder / f"{split}.csv").write_text(f"review,stars\n{rows}", encoding="utf-8")
    return folder


def test_rows_of_your_own(
    root: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The same rows under other names train the same weights; metrics are those that were asked for."""
    columns = ["--text-column", "review", "--label-column", "stars", "--metric", "macro_f1"]
    asked = [
        "train",
        str(root / "model.onnx"),
        "--limit",
        "16",
        "--epochs",
        "1",
        "--batch-size",
        "1",
        "--json",
    ]
    assert main([*asked, "--task", "sst2", "--data", str(root), "-o", str(root / "a.onnx")]) == 0
    capsys.readouterr()
    with caplog.at_level("INFO", logger="bqc"):
        assert main([*asked, "--data", str(own_rows(root)), *columns, "-o", str(root / "b.onnx")]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {"macro_f1"}
    assert (root / "a.onnx.data").read_bytes() == (root / "b.onnx.data").read_bytes()
    assert any("step 10 of 16: loss " in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "own"], "give --task, or --text-column and --label-column of a file of your own"),
        (["--task", "sst2", "--text-column", "review"], "--text-column is for a file of your own"),
        (
            ["--data", "own/train.csv", "--text-column", "review", "--label-column", "stars"],
            "give a folder with train.csv and dev.csv",
        ),
        (["--data", "own", "--text-column", "reviews", "--label-column", "stars"], "no column 'reviews'"),
        (["--task", "sst2", "--metric-fn", "nowhere:f"], "nowhere"),
    ],
)
def test_rows_that_cannot_be_trained_on(
    more: list[str],
    message: str,
    root: Path,
    no_training: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_rows(root)
    monkeypatch.chdir(root)
    assert main(["train", "model.onnx", *more, "-o", "a.onnx"]) == 2
    assert message in capsys.readouterr().err.splitlines()[0]
    assert not (root / "a.onnx").exists()

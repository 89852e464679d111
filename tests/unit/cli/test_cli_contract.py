"""Exit codes, messages and start-up of the command line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bqc.cli import main
from bqc.cli.app import VERBS
from bqc.errors import BqcError

HEAVY = (
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "rich",
    "torch",
    "transformers",
    "tokenizers",
)


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bqc.cli import main; status = main(['--help']);"
        f"print(status, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "0 []"


def test_help_is_fast() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "bqc.cli", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"bqc {verb} " in text or f"bqc {verb}\n" in text
    assert "--json" in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_page(verb: str) -> None:
    page = Path(__file__).parents[3] / "docs" / "verbs" / f"{verb}.md"
    headings = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert headings == [
        "## When to use",
        "## Synopsis",
        "## Options",
        "## Examples",
        "## Output",
        "## Errors",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_on_the_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib

    page = (Path(__file__).parents[3] / "docs" / "verbs" / f"{verb}.md").read_text(encoding="utf-8")
    command = importlib.import_module(f"bqc.cli.{verb}").command
    options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    assert [name for name in options if f"`{name}" not in page] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bqc ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evla"], "did you mean 'eval'"),
        (["frobnicate"], "verbs are compile, "),
        (["eval", "--tsak", "sst2", "x.onnx"], "--task"),
        (["eval", "x.onnx"], "give --task, or --text-column"),
        (["eval", "x.onnx", "--task", "sst"], "did you mean sst2"),
        (["verify", "x.onnx", "--against", "y.onnx", "--shape", "8"], "8x64"),
        (["verify", "x.onnx", "--against", "y.onnx"], "x.onnx: no such file"),
        (["compile", "x.onnx", "--weight-bits", "5"], "--weight-bits"),
        (["export"], "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    first = captured.err.splitlines()[0]
    assert first.startswith("bqc: error: ")
    assert message in first
    assert "Traceback" not in captured.err
    assert captured.out == ""


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    import bqc.runtime.doctor

    def diagnose() -> None:
        raise error

    monkeypatch.setattr(bqc.runtime.doctor, "diagnose", diagnose)


def test_an_unforeseen_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ZeroDivisionError("by\nzero"))
    assert main(["doctor", "-v"]) == 2
    assert capsys.readouterr().err == (
        "bqc: error: unexpected ZeroDivisionError: by zero (run with -vv for the traceback)\n"
    )
    assert main(["doctor", "-vv"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_our_own_error_never_has_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, BqcError("the moon is full"))
    assert main(["doctor", "-vv"]) == 2
    assert capsys.readouterr().err == "bqc: error: the moon is full\n"


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert main(["doctor"]) == 130


def test_a_reader_that_went_away_is_no_error() -> None:
    command = f"{sys.executable} -m bqc.cli doctor --json | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setenv("BQC_LIBRARY", str(tmp_path / "nothing.so"))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "[✓] ONNX Runtime" in text
    assert "[x] kernel library: BQC_LIBRARY names" in text
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["schema_version"] == 2
    assert main(["doctor", "-q"]) == 1
    assert capsys.readouterr().out == ""

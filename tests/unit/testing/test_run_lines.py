"""RUN lines are read, executed in this process, and fail when they should."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import lit.Test
import pytest

from bqc.errors import BqcError
from bqc.testing import PassTest, run_lines
from tests.support.seeded import install

GRAPH = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N] x) => (float[N] y) {
   a = Identity (x)
   y = Relu (a)
}
"""
RUN = "// RUN: bqc opt %s -p import-fold -o - | filecheck %s\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "a test.onnxtxt"
    file.write_text(text)
    return file


def test_a_run_line(tmp_path: Path) -> None:
    file = written(tmp_path, f"{RUN}{GRAPH}// CHECK: y = Relu (x)\n")
    (line,) = run_lines(file)
    assert line.bqc == ("opt", str(file), "-p", "import-fold", "-o", "-")
    assert (line.fails, line.prefix, line.check()) == (False, "CHECK", None)


@pytest.mark.parametrize("option", ["--check-prefix=FOLDED", "--check-prefix FOLDED"])
def test_prefixes(option: str, tmp_path: Path) -> None:
    run = RUN.replace("filecheck %s", f"filecheck %s {option}")
    (line,) = run_lines(written(tmp_path, f"{run}{GRAPH}// FOLDED: Relu (x)\n// CHECK: nothing\n"))
    assert (line.prefix, line.check()) == ("FOLDED", None)


def test_what_is_not_printed_fails(tmp_path: Path) -> None:
    (line,) = run_lines(written(tmp_path, f"{RUN}{GRAPH}// CHECK: y = Gelu (x)\n"))
    problem = line.check()
    assert problem is not None
    assert 'Couldn\'t match "y = Gelu (x)"' in problem
    assert "y = Relu (x)" in problem


def test_an_error_must_be_expected(tmp_path: Path) -> None:
    (line,) = run_lines(written(tmp_path, f"{RUN}{GRAPH.replace('Relu (', 'Relu ')}// CHECK: y\n"))
    assert "exit status 2" in (line.check() or "")
    (line,) = run_lines(written(tmp_path, f"{RUN.replace('bqc', 'not bqc', 1)}{GRAPH}// CHECK: y\n"))
    assert "exit status 0" in (line.check() or "")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("", "no line '// RUN: bqc opt"),
        ("// RUN: bqc opt %s\n", r"is not of the form '\[not\] bqc ... \| filecheck ...'"),
        ("// RUN: cat %s | filecheck %s\n", "is not of the form"),
        ("// RUN: bqc opt %s | grep x\n", "is not of the form"),
    ],
)
def test_other_lines_are_refused(run: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BqcError, match=message):
        run_lines(written(tmp_path, run + GRAPH))


def test_passes_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "site")
    text = """// RUN: bqc opt %s -p spell-softmax{wrong_layer=1} -o - | filecheck %s
<ir_version: 10, opset_import: ["" : 21]>
g (float[N,4] x) => (float[N,4] y) {
   y = Softmax <axis = -1> (x) @LAYER:attention.softmax
}
// CHECK: ReduceSum
"""
    found = {}
    for layer in ("0", "1"):
        file = written(tmp_path, text.replace("LAYER", layer))
        found[layer] = PassTest().execute(SimpleNamespace(getSourcePath=lambda file=file: str(file)), None)
    assert found["0"] == (lit.Test.PASS, "")
    assert found["1"][0] is lit.Test.FAIL
    assert "it moved by" in found["1"][1]

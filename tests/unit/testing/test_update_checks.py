"""Check lines are written from what bqc prints, and hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bqc.testing import run_lines
from bqc.testing.update_checks import main, updated

GRAPH = """<ir_version: 10, opset_import: ["" : 21]>
NAME (float[N] x) => (float[N] y) {
   [n1] a = Identity (x)
   [n2] float[N] b, float[N] b.rest = Split <axis = 0, num_outputs = 2> (a) @0:ffn.gelu @{k: "v"}
   c = Add (b, b.rest)
   y = Relu (c)
}
"""
RUN = "// RUN: bqc opt %s -p import-fold --split-input | filecheck %s\n"
CHECKS = r"""// CHECK-LABEL: NAME (float[N] x) => (float[N] y) {
// CHECK-NEXT: float[N] [[B:[^\s,)]+]], float[N] [[B_REST:[^\s,)]+]] = Split <axis = 0, num_outputs = 2> (x) @0:ffn.gelu
// CHECK-NEXT: {{ }}[[C:[^\s,)]+]] = Add ([[B]], [[B_REST]])
// CHECK-NEXT: y = Relu ([[C]])
// CHECK-NEXT: }
"""


def two(checks: str) -> str:
    return "// -----\n".join(f"{GRAPH}{checks}".replace("NAME", name) for name in ("one", "two"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "test.onnxtxt"
    file.write_text(RUN + two("// CHECK: something old\n"))
    return file


def test_checks_are_replaced_and_hold(file: Path) -> None:
    new = updated(file)
    assert new == RUN + two(CHECKS)
    file.write_text(new)
    assert updated(file) == new
    (line,) = run_lines(file)
    assert line.check() is None
    file.write_text(new.replace("Add ([[B]], [[B_REST]])", "Add ([[B_REST]], [[B]])"))
    assert "Couldn't match" in (line.check() or "")


def test_errors_are_checks_too(file: Path) -> None:
    file.write_text(RUN.replace("bqc", "not bqc", 1) + GRAPH.replace("Relu (", "Relu "))
    assert updated(file).endswith(
        "\n// CHECK: // error: {{.*}}:{{[0-9:]+}}: expected '(' or '<' after an operator, found 'c'\n"
    )
    file.write_text(updated(file))
    assert run_lines(file)[0].check() is None


def test_what_changes_in_the_header_is_checked(file: Path) -> None:
    file.write_text(
        RUN.replace("import-fold", "import-opset") + GRAPH.replace("ir_version: 10", "ir_version: 8")
    )
    assert "// CHECK: ir_version: 10\n// CHECK-LABEL: NAME (" in updated(file)


def test_checks_by_hand_are_left_alone(file: Path) -> None:
    text = f"{RUN}// Checks are written by hand.\n{GRAPH}// CHECK: Relu\n"
    file.write_text(text)
    assert updated(file) == text


def test_the_command(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bqc-update-checks", *arguments])
        return main()

    before = file.read_text()
    assert run("--check", str(file)) == 1
    assert file.read_text() == before
    assert "-// CHECK: something old" in capsys.readouterr().out
    assert run(str(file)) == 0
    assert capsys.readouterr().out == f"{file}: updated\n"
    assert run("--check", str(file)) == 0
    assert run(str(file.with_name("missing.onnxtxt"))) == 2
    assert "bqc-update-checks: error: " in capsys.readouterr().err


def test_needs_neither_lit_nor_filecheck(tmp_path: Path) -> None:
    file = tmp_path / "a.onnxtxt"
    file.write_text(RUN + GRAPH)
    script = (
        "import sys; sys.modules['lit'] = sys.modules['filecheck'] = None\n"
        f"sys.argv = ['bqc-update-checks', {str(file)!r}]\n"
        "from bqc.testing.update_checks import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert file.read_text() == RUN + GRAPH + CHECKS

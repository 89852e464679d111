"""The tests of passes in this folder hold, and leave no pass out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bqc.errors import BqcError
from bqc.ir.text import from_text, split
from bqc.passes import names
from bqc.pipeline import parse
from bqc.testing import RunLine, run_lines

FOLDER = Path(__file__).parent


def test_lit() -> None:
    # The workers import what this interpreter imports: an installed bqc, or the source tree.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from lit.main import main; main()", "-v", "-j2", str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Passed: {len(list(FOLDER.glob('*/*.onnxtxt')))} (100.00%)" in done.stdout


@pytest.mark.parametrize("name", names())
def test_every_pass_has_positives_and_negatives(name: str) -> None:
    files = sorted((FOLDER / name).glob("*.onnxtxt"))
    done = {change for file in files for run in run_lines(file) for change in changes(file, run)}
    assert "changed" in done, f"tests/passes/{name}: no model that the pass changes"
    # finalize names the nodes of every model.
    assert done - {"changed"} or name == "finalize", (
        f"tests/passes/{name}: no model that the pass leaves alone"
    )


def changes(file: Path, run: RunLine) -> list[str]:
    """For every model of a file: `changed` or `unchanged` by the last pass of the RUN line, or `refused`."""
    options = list(run.bqc)
    pipeline = parse(options[options.index("-p") + 1])
    found = []
    for piece in split(file.read_text(encoding="utf-8")):
        try:
            model = from_text(piece)
            modified = [one(model).modified for one in pipeline]
        except BqcError:
            found.append("refused")
        else:
            found.append("changed" if modified[-1] else "unchanged")
    return found

"""Killed or interrupted at any moment: a model in the output folder is whole, and the next run tidies up."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import bqc
from bqc.ir import load
from bqc.ir.synthetic import canonical_bert
from bqc.staging import PREFIX, staged, uninterrupted

# Compiles over and over, so that a moment drawn at random falls into any part of it; "." marks the first result.
PROGRAM = """
import sys, bqc
while True:
    bqc.compile(sys.argv[1], output=sys.argv[2], weight_bits=4, save_recipe=sys.argv[3])
    print(".", end="", flush=True)
"""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has interrupts ignored, here and in every child."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    ir.save(canonical_bert(layers=1), folder / "model.onnx")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}" * 50_000)
    return folder / "model.onnx"


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.exists() else set()


def check_whole(folder: Path) -> None:
    model = folder / "model.bqc.onnx"
    for name in ("config.json", "tokenizer.json"):
        assert not (folder / name).exists() or (folder / name).stat().st_size == 100_000
    if model.exists():
        load(model)
        onnx.checker.check_model(str(model), full_check=True)
        bqc.session(model, strict=True)
    recipe = folder / "recipe.yaml"
    assert not recipe.exists() or recipe.read_text().endswith("\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_moment(source: Path, tmp_path: Path, number: signal.Signals) -> None:
    moments = random.Random(int(number))
    folder = tmp_path / "out"
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, source, f"{folder}/", folder / "recipe.yaml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout is not None
        assert child.stdout.read(1) == b"."
        for _ in range(8):  # stopped at many moments, looked at, and let go again
            time.sleep(moments.random() * 0.06)
            os.kill(child.pid, signal.SIGSTOP)
            check_whole(folder)
            os.kill(child.pid, signal.SIGCONT)
        time.sleep(moments.random() * 0.06)
        os.kill(child.pid, number)
        child.wait(30)
        check_whole(folder)
        if number == signal.SIGINT:
            assert not any(name.startswith(PREFIX) for name in names(folder))
    bqc.compile(source, output=f"{folder}/")
    expected = {"model.bqc.onnx", "model.bqc.onnx.data", "config.json", "tokenizer.json", "recipe.yaml"}
    assert names(folder) == expected, "what was left has been swept"


def test_only_what_nobody_holds_is_swept(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}dead").mkdir()
    (tmp_path / f"{PREFIX}dead" / "half").write_text("x")
    (tmp_path / f"{PREFIX}file").write_text("not ours")
    held = tmp_path / f"{PREFIX}live"
    held.mkdir()
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with staged(tmp_path) as folder, staged(tmp_path) as other:
        assert names(tmp_path) == {f"{PREFIX}live", f"{PREFIX}file", folder.name, other.name}
    os.close(lock)
    assert names(tmp_path) == {f"{PREFIX}live", f"{PREFIX}file"}


def test_a_folder_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "new"):
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()


def test_an_interrupt_waits() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_the_command_line_says_130(source: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, bqc.staging, bqc.cli\n"
        "import bqc.artifact\n"
        "bqc.artifact._publish = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(bqc.cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compile", source, "-o", tmp_path / "m.onnx"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert not names(tmp_path)


def test_the_command_line_says_130_while_it_is_imported() -> None:
    code = (
        "import sys, bqc.cli\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "sys.exit(bqc.cli.main(['--version']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")

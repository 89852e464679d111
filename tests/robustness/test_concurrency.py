"""Many threads, many sessions, several libraries: the same bits, and memory that does not grow."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.ir.synthetic import canonical_bert
from bqc.runtime.library import library_path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    ir.save(canonical_bert(layers=1, hidden=64), folder / "model.onnx")
    return bqc.compile(folder / "model.onnx", output=folder / "m.onnx", weight_bits=4).paths[0]


def feeds(batch: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(batch * 100 + length)
    mask = np.ones((batch, length), np.int64)
    mask[:1, length // 2 + 1 :] = 0
    ids = rng.integers(0, 100, (batch, length))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}


CASES = [feeds(batch, length) for batch, length in ((1, 1), (1, 7), (2, 33), (5, 16), (3, 60), (0, 4))]


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_callers_of_one_session(artifact: Path, threads: int) -> None:
    session = bqc.session(artifact, strict=True, threads=threads)
    expected = [session.run(None, case)[0].tobytes() for case in CASES]
    start = threading.Barrier(8)

    def call(seed: int) -> int:
        order = np.random.default_rng(seed).integers(len(CASES), size=125)
        start.wait()
        return sum(session.run(None, CASES[i])[0].tobytes() == expected[i] for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(call, range(8))) == 1000


def test_sessions_come_and_go(artifact: Path) -> None:
    expected = bqc.session(artifact).run(None, CASES[3])[0].tobytes()

    def live(_: int) -> bool:
        session = bqc.session(artifact, strict=True, threads=2)
        return bool(session.run(None, CASES[3])[0].tobytes() == expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(live, range(60)))


def test_two_copies_of_the_library_in_one_process(artifact: Path, tmp_path: Path) -> None:
    """As where two versions of bqc are installed, or a server loads one and a plug-in another."""
    other = tmp_path / "libother.so"
    shutil.copyfile(library_path(), other)
    sessions = []
    for library in (library_path(), str(other), library_path(), str(other)):
        options = ort.SessionOptions()
        options.register_custom_ops_library(library)
        sessions.append(ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"]))
    expected = sessions[0].run(None, CASES[4])[0].tobytes()

    def call(i: int) -> bool:
        return bool(sessions[i % 4].run(None, CASES[4])[0].tobytes() == expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(80)))
    del sessions[1:]
    assert call(0)


# In a process of its own, as memory that other tests have freed would hide a leak.
GROWTH = """
import resource, sys, threading
from pathlib import Path
import numpy as np
import bqc

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

ids = np.ones((2, 20), np.int64)
feeds = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids * 0}
session = bqc.session(sys.argv[1], strict=True, threads=1)
what, first, last = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def run():
    session.run(None, feeds)

def in_a_new_thread():
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

def with_a_new_session():
    bqc.session(sys.argv[1], strict=True, threads=1).run(None, feeds)

for i in range(last):
    {"runs": run, "threads": in_a_new_thread, "sessions": with_a_new_session}[what]()
    if i == first:
        settled = resident()
print(resident() - settled)
"""


@pytest.mark.parametrize(
    ("what", "first", "last", "most"),
    [("runs", 300, 3000, 1.0), ("threads", 100, 1500, 1.0), ("sessions", 20, 100, 8.0)],
)
def test_memory_does_not_grow(artifact: Path, what: str, first: int, last: int, most: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, artifact, what, str(first), str(last)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) <= most

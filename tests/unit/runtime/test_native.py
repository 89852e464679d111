"""The library's C interface, the doctor and the report of missing kernels, against an empty library."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from bqc.cli import main
from bqc.errors import BqcError
from bqc.runtime import MissingKernelWarning, library_path, register, session
from bqc.runtime.native import Family, Kernel, NativeLibrary, Support, native
from tests.support.tiny_encoder import write_doubler

SOURCE = r"""
#include <stdio.h>
#include <string.h>
static int resets;
const char* BqcBuildInfo(void) { return "{\"version\": \"0\", \"levels\": [\"portable\", \"avx2\"]}"; }
const char* BqcIsa(void) { return "avx2"; }
const char* BqcKernelFamilies(void) {
  return "[{\"name\": \"linear\", \"operators\": [\"Double\", \"Triple\"], \"levels\":"
         " {\"portable\": {\"by\": \"loops\", \"weight_bits\": [4, 8]}, \"avx2\": {\"by\": \"vpaddd\"}}}]";
}
double BqcPeak(const char* level, const char* arithmetic, double seconds) {
  return strcmp(level, "avx2") ? 0 : strcmp(arithmetic, "fp32") ? 2 * seconds : seconds;
}
const char* BqcCpuFeatures(void) { return "[\"avx2\", \"fma\"]"; }
void BqcKernelReset(void) { ++resets; }
long BqcKernelNames(char* buffer, long n) {
  const char* text = KERNELS && resets ? "twice\tDouble\tavx2\n" : "";
  if (buffer) snprintf(buffer, n, "%s", text);
  return strlen(text) + 1;
}
int BqcSelfTest(char* buffer, long n) {
  snprintf(buffer, n, "rounding: %s\nsums: ok\n", FAIL ? "wrong" : "ok");
  return FAIL;
}
void* RegisterCustomOps(void* options, const void* api) { return 0; }
"""


def build(folder: Path, kernels: int = 0, fail: int = 0) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "stub.c").write_text(SOURCE, encoding="utf-8")
    library = folder / "libstub.so"
    options = ["-shared", "-fPIC", f"-DKERNELS={kernels}", f"-DFAIL={fail}"]
    subprocess.run([compiler, *options, "-o", str(library), str(folder / "stub.c")], check=True)
    return library


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = build(tmp_path)
    monkeypatch.setenv("BQC_LIBRARY", str(library))
    return library


def test_questions(stub: Path) -> None:
    library = native()
    assert library.path == library_path() == str(stub)
    assert library.build_info()["version"] == "0"
    assert library.isa() == "avx2"
    assert library.cpu_features() == ["avx2", "fma"]
    assert library.kernels() == []
    assert library.families() == [
        Family(
            "linear",
            ("Double", "Triple"),
            {"portable": Support("loops", (4, 8)), "avx2": Support("vpaddd", ())},
        )
    ]
    assert library.peak("avx2", "int8", 0.5) == 1.0
    assert library.peak("avx2", "fp32", 0.5) == 0.5
    assert library.peak("avx512", "int8", 0.5) == 0.0
    assert library.self_test() == (True, ["rounding: ok", "sums: ok"])


def test_another_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library", encoding="utf-8")
    with pytest.raises(BqcError, match="not a usable kernel library"):
        NativeLibrary(str(tmp_path / "text.so"))


def test_register_is_idempotent(stub: Path) -> None:
    options = onnxruntime.SessionOptions()
    register(options)
    register(options)


def test_missing_kernels_are_named(stub: Path, tmp_path: Path) -> None:
    model = write_doubler(tmp_path / "m.bqc.onnx")
    with pytest.warns(MissingKernelWarning, match=r"no kernel for 1 of 1 ai\.bqc node: twice \(Double\)"):
        session(model)
    with pytest.raises(BqcError, match=r"no kernel for 1 of 1 ai\.bqc node: twice \(Double\)"):
        session(model, strict=True)


def test_the_command_line_says_so_once(
    stub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_doubler(tmp_path / "m.bqc.onnx")
    assert main(["eval", str(model), "--task", "sst2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["warning", "error"]


def test_created_kernels_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BQC_LIBRARY", str(build(tmp_path, kernels=1)))
    session(write_doubler(tmp_path / "m.bqc.onnx"), strict=True)
    assert native().kernels() == [Kernel("twice", "Double", "avx2")]


def test_doctor_with_a_library(stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"[✓] kernel library: {stub} (version 0, levels portable+avx2)" in text
    assert "[✓] kernels: avx2; avx512 needs avx512f" in text
    assert "linear kernels: Double, Triple: avx2 by vpaddd; portable by loops (4, 8-bit weights)" in text
    assert "[✓] self-test: 2 checks passed" in text


def test_doctor_with_a_failing_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BQC_LIBRARY", str(build(tmp_path, fail=1)))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "[x] self-test: failed" in text
    assert "rounding: wrong" in text
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["broken"] is True

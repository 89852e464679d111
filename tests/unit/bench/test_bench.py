"""Whole comparisons of a tiny encoder: baselines, memory, profile, chart."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.bench import Options, Plan, Report, Watcher, bench
from bqc.bench.baselines import BASELINES, make_baseline
from bqc.bench.chart import html_page
from bqc.bench.engines import engine_names, find_engines
from bqc.bench.footprint import Footprint, Sample, measure
from bqc.bench.peak import best, measure_peaks
from bqc.bench.workload import Vocabulary, full
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.synthetic import canonical_bert
from bqc.runtime.native import native

QUICK = Plan(rounds=2, seconds=0.01, pause=0.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A float encoder and the same compiled."""
    folder = tmp_path_factory.mktemp("bench")
    ir.save(canonical_bert(), folder / "model.onnx")
    bqc.compile(folder / "model.onnx", output=folder / "small.bqc.onnx")
    return folder / "model.onnx", folder / "small.bqc.onnx"


@pytest.fixture(scope="module")
def report(models: tuple[Path, Path]) -> Report:
    options = Options(baselines=["ort-fp32", "ort-int8"], threads=1, plan=QUICK, memory=False, profile=True)
    steps: list[tuple[int, int]] = []
    watcher = Watcher(progress=lambda done, total: steps.append((done, total)))
    found = bench(models, lambda words: [full((2, 8), words, 0), full((1, 4), words, 0)], options, watcher)
    assert steps == [(n, 16) for n in range(1, 17)]
    return found


def test_every_engine_on_every_workload(report: Report) -> None:
    names = ["ort-fp32", "ort-int8", "model.onnx", "small.bqc.onnx"]
    assert [engine.name for engine in report.engines] == names
    assert report.reference == "ort-fp32"
    assert [workload.name for workload in report.workloads] == ["2x8", "1x4"]
    for workload in report.workloads:
        assert [one.engine for one in workload.engines] == names
        assert all(one.steady_ms > 0 and one.tokens_per_second > 0 for one in workload.engines)
        assert workload.engines[0].ratio == 1
    assert [engine.file is None for engine in report.engines] == [True, True, False, False]


def test_profiles_have_operators_roles_and_peaks(report: Report) -> None:
    found = {(one.engine, one.workload): one.profile for one in report.profiles}
    assert len(found) == 8
    compiled = found["small.bqc.onnx", "2x8"]
    rows = {row.name: row for row in compiled.operators}
    assert rows["BlockLinearGelu"].nodes == 2
    # All tokens in the first layer, the first ones in the last.
    assert rows["BlockLinearGelu"].macs == (16 + 2) * 32 * 64
    assert rows["BlockLinearGelu"].of_peak > 0
    assert "ffn.intermediate" in [row.name for row in compiled.roles]
    assert found["ort-fp32", "2x8"].roles == []
    assert {peak.arithmetic for peak in report.peaks} == {"int8", "fp32", "bits"}
    assert sum(row.share for row in compiled.operators) + compiled.between == pytest.approx(1)


def test_the_page_is_whole_and_loads_nothing(report: Report) -> None:
    page = html_page(report)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        assert len(ElementTree.fromstring(chart).findall("rect")) == 4
    assert "small.bqc.onnx" in page
    assert not re.search(r"https?:|src=|@import|<link|<script", page)


def test_baselines_compute_the_same(models: tuple[Path, Path], tmp_path: Path) -> None:
    original = models[0]
    anatomy = import_model(original)[1].encoder
    feeds = {name: np.ones((2, 6), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    (expected,) = bqc.session(original).run(None, feeds)
    for name, tolerance in (("ort-fp32", 1e-4), ("ort-int8", 0.1), ("ort-nbits4", 0.5)):
        made = make_baseline(name, original, anatomy, tmp_path)
        (found,) = bqc.session(made.path).run(None, feeds)
        assert np.abs(found - expected).max() < tolerance, name
        if name == "ort-nbits4":
            assert made.operators["MatMulNBits"] > 0


def test_baselines_need_no_torch(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy = import_model(models[0])[1].encoder
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in BASELINES:
        make_baseline(name, models[0], anatomy, tmp_path)


def test_a_baseline_without_fused_attention_says_so(report: Report, models: tuple[Path, Path]) -> None:
    # The optimizer does not know the attention of the canonical form.
    assert any(
        line.startswith("ort-fp32: ONNX Runtime's optimizer fused no attention") for line in report.warnings
    )


def test_a_baseline_that_cannot_be_made(models: tuple[Path, Path], tmp_path: Path) -> None:
    anatomy = import_model(models[0])[1].encoder
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(BqcError, match=r"broken.onnx: baseline ort-int8 cannot be made: "):
        make_baseline("ort-int8", tmp_path / "broken.onnx", anatomy, tmp_path)


@pytest.mark.parametrize(
    ("baselines", "source", "message"),
    [
        (["ort-int4"], None, "no baseline 'ort-int4': there are ort-fp32, ort-int8, ort-nbits4"),
        (["ort-fp32"], None, "name one with --source FILE"),
        (["ort-fp32"], "compiled", "no baseline can be made of .*: the model is already compiled"),
    ],
)
def test_no_baseline(
    baselines: list[str], source: str | None, message: str, models: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BqcError, match=message):
        find_engines(models[1:], baselines, models[1] if source else None, tmp_path, print)
    assert set(BASELINES) == {"ort-fp32", "ort-int8", "ort-nbits4"}


def test_names_are_the_shortest_that_differ() -> None:
    assert engine_names([Path("a/m.onnx"), Path("b/n.onnx")]) == ["m.onnx", "n.onnx"]
    assert engine_names([Path("x/a/m.onnx"), Path("x/b/m.onnx")]) == ["a/m.onnx", "b/m.onnx"]
    assert engine_names([Path("m.onnx"), Path("b/m.onnx")]) == [f"{Path.cwd().name}/m.onnx", "b/m.onnx"]
    with pytest.raises(BqcError, match="twice"):
        engine_names([Path("a/m.onnx"), Path("a/m.onnx")])


def test_an_engine_that_cannot_run_is_named(models: tuple[Path, Path]) -> None:
    options = Options(threads=1, plan=QUICK, memory=False)
    with pytest.raises(BqcError, match=r"model.onnx cannot run 1x8: "):
        bench(models[:1], lambda words: [full((1, 8), Vocabulary(words.ids * 50, 1), 0)], options)


def test_more_tokens_than_positions(models: tuple[Path, Path]) -> None:
    options = Options(threads=1, plan=QUICK, memory=False)
    with pytest.raises(BqcError, match=r"1x65: .* positions for 64; give --shape 1x64 or less"):
        bench(models[:1], lambda words: [full((1, 65), words, 0)], options)


def test_no_such_reference(models: tuple[Path, Path]) -> None:
    options = Options(relative_to="other", memory=False)
    with pytest.raises(BqcError, match=r"no engine 'other' to compare with: engines are model.onnx"):
        bench(models[:1], lambda words: [], options)


def test_a_process_of_its_own_tells_memory_and_load_time(models: tuple[Path, Path], tmp_path: Path) -> None:
    feeds = {name: np.ones((1, 4), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    sample = measure(models[0], feeds, 1, tmp_path)
    assert 0 < sample.load < 60
    assert 20 << 20 < sample.resident <= sample.peak
    with pytest.raises(BqcError, match=r"measuring its memory failed: .*no such file"):
        measure(tmp_path / "none.onnx", feeds, 1, tmp_path)


def test_footprints_are_above_the_empty_process() -> None:
    samples = [Sample(0.3, 110, 150), Sample(0.1, 120, 140), Sample(0.2, 115, 160)]
    assert Footprint.of(samples, Sample(0.05, 100, 105)) == Footprint(200.0, 120, 160, 20, 55)


def test_peaks_are_of_levels_that_run() -> None:
    peaks = measure_peaks(native(), 1, 0.01)
    assert ("portable", "int8") in [(peak.level, peak.arithmetic) for peak in peaks]
    assert best(peaks)["fp32"] == max(peak.gmacs for peak in peaks if peak.arithmetic == "fp32")
    assert native().peak("none", "int8", 0.01) == 0

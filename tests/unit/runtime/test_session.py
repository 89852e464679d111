"""Sessions: what they say about bad files, and the report of missing kernels."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from bqc.errors import BqcError
from bqc.runtime import MissingKernelWarning, library_path, session
from bqc.runtime.doctor import why_not_higher
from bqc.runtime.feeds import random_batches
from bqc.runtime.scan import NodeName, bqc_nodes
from bqc.runtime.tables import Tables
from tests.support.graphs import constant_nodes
from tests.support.tiny_encoder import VOCABULARY, write_classifier, write_doubler


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BQC_LIBRARY", raising=False)
    monkeypatch.setattr("bqc.runtime.library._candidates", lambda: iter(()))


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    return write_doubler(tmp_path / "model.bqc.onnx")


def test_nodes_of_a_file(compiled: Path, tmp_path: Path) -> None:
    assert bqc_nodes(compiled) == [NodeName("twice", "Double")]
    assert bqc_nodes(write_classifier(tmp_path / "float.onnx")) == []
    assert bqc_nodes(Path(__file__)) == []
    (tmp_path / "empty").write_bytes(b"")
    assert bqc_nodes(tmp_path / "empty") == []


def test_nodes_of_any_prefix_do_not_fail(compiled: Path, tmp_path: Path) -> None:
    data = compiled.read_bytes()
    cut = tmp_path / "cut.onnx"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        bqc_nodes(cut)


def test_bodies_run_without_the_library(compiled: Path, no_library: None) -> None:
    with pytest.warns(MissingKernelWarning, match="1 ai.bqc node run"):
        running = session(compiled, threads=1)
    (y,) = running.run(None, {"x": np.asarray([1.5], dtype=np.float32)})
    assert y.tolist() == [3.0]
    with pytest.raises(BqcError, match="is not installed: run 'pip install"):
        session(compiled, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session(compiled, library=False)


def test_a_library_that_is_named_must_be_there(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BQC_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(BqcError, match=r"BQC_LIBRARY names .*none\.so, which is not a file"):
        session(compiled)


def test_an_unknown_level_is_an_error(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BQC_MAX_ISA", "sse9")
    with pytest.raises(BqcError, match="BQC_MAX_ISA=sse9 is no instruction set level; use portable, avx2"):
        session(compiled)


def test_a_float_model_needs_no_library(tmp_path: Path, no_library: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session(write_classifier(tmp_path / "float.onnx"), strict=True)


def test_bad_files(compiled: Path, tmp_path: Path) -> None:
    with pytest.raises(BqcError, match="no such file"):
        session(tmp_path / "none.onnx")
    with pytest.raises(BqcError, match="is a folder"):
        session(tmp_path)
    for content in (b"", b"not a model", compiled.read_bytes()[:-20]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(BqcError, match="not an ONNX model, or a truncated one"):
            session(tmp_path / "bad.onnx")


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = write_classifier(tmp_path / "model.onnx", np.zeros((len(VOCABULARY), 400), dtype=np.float32))
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location="weights.data",
        size_threshold=1024,
    )
    return path


def test_missing_external_data(external: Path) -> None:
    external.with_name("weights.data").unlink()
    with pytest.raises(BqcError, match=r"its data file weights\.data is missing; copy it next to the model"):
        session(external)


@pytest.mark.parametrize("left", [0, 1000])
def test_truncated_external_data(external: Path, left: int) -> None:
    os.truncate(external.with_name("weights.data"), left)
    with pytest.raises(BqcError, match=rf"weights\.data, which has only {left}; the data file is truncated"):
        session(external)


def test_what_only_onnx_runtime_knows(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Nothing"
    onnx.save(model, path)
    with pytest.raises(BqcError, match=r"model\.onnx: ONNX Runtime cannot load it: .*Nothing"):
        session(path)


def test_no_library_says_what_to_do(no_library: None) -> None:
    with pytest.raises(BqcError, match=r"not installed: run .pip install"):
        library_path()


def test_random_batches() -> None:
    made = list(random_batches(50, 2, samples=7, batch=4, sequence=9, seed=3))
    assert [batch.ids.shape for batch in made] == [(4, 9), (3, 9)]
    for batch in made:
        assert batch.mask[0].all()
        assert batch.mask.any(axis=1).all()
        assert not batch.ids[batch.mask == 0].any()
        assert batch.ids.max() < 50
    again = next(random_batches(50, 2, samples=7, batch=4, sequence=9, seed=3))
    assert (again.ids == made[0].ids).all()


def test_tables(tmp_path: Path) -> None:
    tables = Tables(write_classifier(tmp_path / "model.onnx"))
    assert tables.rows == {"input_ids": len(VOCABULARY)}
    assert tables.positions is None


@pytest.mark.parametrize("domain", ["", "local"])
def test_tables_may_be_constant_nodes_of_onnx(domain: str, tmp_path: Path) -> None:
    model = onnx.load(write_classifier(tmp_path / "model.onnx"))
    constant_nodes(model)
    for node in model.graph.node:
        if node.op_type == "Constant":
            node.domain = domain
    onnx.save(model, tmp_path / "constants.onnx")
    assert Tables(tmp_path / "constants.onnx").rows == ({} if domain else {"input_ids": len(VOCABULARY)})


@pytest.mark.parametrize(
    ("level", "features", "compiled", "cap", "reason"),
    [
        ("avx512_vbmi", [], [], None, None),
        (
            "avx512",
            ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"],
            ["portable", "avx2", "avx512", "avx512_vbmi"],
            None,
            "avx512_vbmi needs avx512vbmi, avx512vpopcntdq, which this CPU lacks",
        ),
        (
            "portable",
            ["sse2"],
            ["portable", "avx2"],
            None,
            "avx2 needs avx2, fma, f16c, which this CPU lacks",
        ),
        ("portable", ["avx2", "fma", "f16c"], ["portable"], None, "this build has no avx2 kernels"),
        (
            "avx2",
            ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq"],
            ["portable", "avx2", "avx512"],
            None,
            "avx512 needs avx512vnni, which this CPU lacks",
        ),
        (
            "avx2",
            ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"],
            ["portable", "avx2", "avx512"],
            "avx2",
            "BQC_MAX_ISA=avx2 holds avx512 back",
        ),
        ("neon_dot", ["asimd", "asimddp"], ["portable", "neon", "neon_dot"], None, None),
        (
            "neon",
            ["asimd"],
            ["portable", "neon", "neon_dot"],
            None,
            "neon_dot needs asimddp, which this CPU lacks",
        ),
        ("portable", [], ["portable", "neon", "neon_dot"], None, "neon needs asimd, which this CPU lacks"),
    ],
)
def test_why_not_a_higher_level(
    level: str, features: list[str], compiled: list[str], cap: str | None, reason: str | None
) -> None:
    assert why_not_higher(level, compiled, features, cap) == reason

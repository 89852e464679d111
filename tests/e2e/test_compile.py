"""`bqc.compile` from file to file: what the artifact holds, and that nothing half-done is ever left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import bqc
from bqc.artifact import ALIGNMENT
from bqc.ir.synthetic import canonical_bert
from bqc.plan import Plan
from tests.support.exporters_written import unlabelled


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    ir.save(unlabelled(canonical_bert(layers=2, hidden=48, heads=2, ffn=72)), folder / "model.onnx")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder / "model.onnx"


def feeds(batch: int = 3, length: int = 9, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    mask[0, length // 2 + 1 :] = 0
    mask[-1, : length // 3] = 0
    return {
        "input_ids": rng.integers(0, 100, (batch, length)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (batch, length)),
    }


def plain(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_the_artifact(source: Path, tmp_path: Path) -> None:
    result = bqc.compile(source, output=tmp_path / "small.onnx", weight_bits=4, block=32)
    assert [p.name for p in result.paths] == ["small.onnx", "small.onnx.data"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.onnx", "small.onnx.data"]
    proto = onnx.load(result.paths[0], load_external_data=False)
    assert proto.ir_version <= 10
    assert {o.domain: o.version for o in proto.opset_import} == {"": 21, "ai.bqc": 1}
    metadata = {p.key: p.value for p in proto.metadata_props}
    assert metadata["bqc.format_version"] == "1"
    assert metadata["bqc.scheme"] == "bbct"
    assert json.loads(metadata["bqc.options"])["weight_bits"] == 4
    assert Plan.from_yaml(metadata["bqc.plan"], "file") == result.plan
    assert len(metadata["bqc.input_sha256"]) == 64
    assert set(json.loads(metadata["bqc.bounds"])) == {"cosine_min", "argmax_agreement_min"}
    size = result.paths[1].stat().st_size
    for tensor in proto.graph.initializer:
        where = {e.key: e.value for e in tensor.external_data}
        if where:
            assert int(where["offset"]) % ALIGNMENT == 0, tensor.name
            assert int(where["offset"]) + int(where["length"]) <= size
    for node in proto.graph.node:
        properties = {p.key: p.value for p in node.metadata_props}
        if node.domain == "ai.bqc":
            assert properties["bqc.pass"].startswith("fold-"), node.name
            assert properties["bqc.source"], node.name
    assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)
    onnx.checker.check_model(str(result.paths[0]), full_check=True)


@pytest.mark.parametrize("bits", [8, 6, 4, 3])
@pytest.mark.parametrize("block", [16, 64, "row"])
def test_same_bits_with_and_without_the_library(source: Path, tmp_path: Path, bits: int, block: Any) -> None:
    path = bqc.compile(source, output=tmp_path / "m.onnx", weight_bits=bits, block=block).paths[0]
    with_library = bqc.session(path, strict=True, threads=2)
    without = plain(path)
    for batch, length in [(3, 9), (1, 1), (2, 31), (0, 5)]:
        a, b = (
            with_library.run(None, feeds(max(batch, 1), length)),
            without.run(None, feeds(max(batch, 1), length)),
        )
        if batch == 0:
            empty = {k: v[:0] for k, v in feeds(1, length).items()}
            a, b = with_library.run(None, empty), without.run(None, empty)
        assert [x.tobytes() for x in a] == [x.tobytes() for x in b]
        assert [x.shape for x in a] == [x.shape for x in b]


def test_same_bits_in_the_reference_evaluator(source: Path, tmp_path: Path) -> None:
    path = bqc.compile(source, output=tmp_path / "m.onnx", block=16, single_file=True).paths[0]
    want = bqc.session(path, strict=True).run(None, feeds())
    got = ReferenceEvaluator(str(path)).run(None, feeds())
    assert [x.tobytes() for x in got] == [x.tobytes() for x in want]


@pytest.mark.parametrize("level", ["portable", "avx2", "avx512", "avx512_vbmi"])
@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_on_every_level(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, threads: int
) -> None:
    path = bqc.compile(source, output=tmp_path / "m.onnx", weight_bits=4).paths[0]
    want = plain(path).run(None, feeds(3, 40))
    monkeypatch.setenv("BQC_MAX_ISA", level)
    got = bqc.session(path, strict=True, threads=threads).run(None, feeds(3, 40))
    assert [x.tobytes() for x in got] == [x.tobytes() for x in want]


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding(source: Path, tmp_path: Path) -> None:
    session = bqc.session(bqc.compile(source, output=tmp_path / "m.onnx").paths[0], strict=True)
    alone = {k: v[:1, :5] for k, v in feeds(1, 9).items()}
    alone["attention_mask"] = np.ones((1, 5), np.int64)
    together = feeds(4, 20, seed=1)
    for name, value in alone.items():
        together[name][2, :5] = value[0]
    together["attention_mask"][2, 5:] = 0
    assert session.run(None, alone)[0].tobytes() == session.run(None, together)[0][2:3].tobytes()


def test_single_file_and_folder(source: Path, tmp_path: Path) -> None:
    single = bqc.compile(source, output=tmp_path / "one.onnx", single_file=True)
    assert [p.name for p in single.paths] == ["one.onnx"]
    folder = bqc.compile(source, output=f"{tmp_path}/out/")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.bqc.onnx",
        "model.bqc.onnx.data",
        "tokenizer.json",
    ]
    a = plain(single.paths[0]).run(None, feeds())
    b = plain(folder.paths[0]).run(None, feeds())
    assert a[0].tobytes() == b[0].tobytes()


def test_compiling_twice_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first = [p.read_bytes() for p in bqc.compile(source, output=tmp_path / "a.onnx").paths]
    second = [p.read_bytes() for p in bqc.compile(source, output=tmp_path / "a.onnx").paths]
    assert first == second


def test_a_recipe_reproduces_the_model(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    options = {"weight_bits": 4, "embedding_bits": 6, "exclude": ("1:ffn.output",)}
    first = bqc.compile(source, output=tmp_path / "a.onnx", save_recipe=recipe, **options)
    second = bqc.compile(source, output=tmp_path / "b.onnx", recipe=recipe)
    assert first.plan == second.plan
    assert (tmp_path / "a.onnx.data").read_bytes() == (tmp_path / "b.onnx.data").read_bytes()
    with pytest.raises(bqc.BqcError, match="a recipe is a whole plan: leave out weight_bits"):
        bqc.compile(source, output=tmp_path / "c.onnx", recipe=recipe, weight_bits=4)


def test_bounds_and_options_come_from_the_plan(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    four = bqc.compile(source, output=tmp_path / "four.onnx", weight_bits=4, save_recipe=recipe)
    again = bqc.compile(source, output=tmp_path / "again.onnx", recipe=recipe)
    eight = bqc.compile(source, output=tmp_path / "eight.onnx", weight_bits=4, max_error=1e-9)
    bounds, options = [], []
    for result in (four, again, eight):
        metadata = {
            p.key: p.value for p in onnx.load(result.paths[0], load_external_data=False).metadata_props
        }
        bounds.append(json.loads(metadata["bqc.bounds"])["cosine_min"])
        options.append(json.loads(metadata["bqc.options"]))
    assert bounds == [0.8, 0.8, 0.97]
    assert options[1] == "recipe"
    kept = dict(eight.summary)["kept"]
    assert kept.startswith("16 of 17 weights 8 bits: ")


def test_a_recipe_says_what_it_leaves_out(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    bqc.compile(source, output=tmp_path / "a.onnx", save_recipe=recipe, dry_run=True)
    plan = Plan.read(recipe)
    del plan.weights["0:ffn.output"]
    recipe.write_text(plan.to_yaml(), encoding="utf-8")
    result = bqc.compile(source, output=tmp_path / "b.onnx", recipe=recipe)
    assert result.plan.kept == {"0:ffn.output": "float: not in the recipe"}
    assert "input file" in dict(result.summary)["size"]


def test_a_norm_over_another_axis_stays_float(tmp_path: Path) -> None:
    model = canonical_bert(layers=2, hidden=48, heads=2, ffn=72)
    norm = [n for n in model.graph if n.op_type == "LayerNormalization"][-1]
    norm.attributes["axis"] = ir.AttrInt64("axis", 1)
    result = bqc.compile(model, output=tmp_path / "m.onnx")
    (part,) = result.float_parts
    assert part.layer == "1"
    assert "LayerNormalization over the last axis" in part.reason


def test_partial_compilation_runs_and_says_what_is_float(source: Path, tmp_path: Path) -> None:
    result = bqc.compile(source, output=tmp_path / "p.onnx", include=("ffn.*",))
    rows = dict(result.summary)
    assert "excluded" in rows["kept"]
    assert np.isfinite(plain(result.paths[0]).run(None, feeds())[0]).all()


def test_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    result = bqc.compile(source, output=tmp_path / "x.onnx", dry_run=True)
    assert result.paths == ()
    assert result.plan.weights
    assert not list(tmp_path.iterdir())


def test_compiled_models_are_refused(source: Path, tmp_path: Path) -> None:
    path = bqc.compile(source, output=tmp_path / "m.onnx").paths[0]
    with pytest.raises(bqc.BqcError, match="already compiled"):
        bqc.compile(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "bbtc"}, "unknown scheme 'bbtc'; did you mean bbct"),
        ({"weigth_bits": 4}, "no option 'weigth_bits'; did you mean weight_bits"),
        ({"weight_bits": 5}, "no 5-bit codes"),
        ({"block": 48}, "no block 48"),
        ({"exclude": ("gelu",)}, "matches no weight"),
        ({"output": "model.bin"}, "the output is a .onnx file"),
    ],
)
def test_bad_options(source: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    arguments = {"output": str(tmp_path / "m.onnx"), **options}
    with pytest.raises(bqc.BqcError, match=message):
        bqc.compile(source, **arguments)
    assert not list(tmp_path.iterdir())


def test_the_input_is_never_overwritten(source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(bqc.BqcError, match="would overwrite the input"):
        bqc.compile(source, output=source)
    assert source.read_bytes() == before


def test_a_failed_write_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bqc.artifact.os.replace", fails)
    with pytest.raises(bqc.BqcError, match="cannot be written: No space left"):
        bqc.compile(source, output=tmp_path / "out" / "m.onnx")
    assert not list(tmp_path.rglob("*.onnx*"))


def test_progress_counts_up(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    bqc.compile(source, output=tmp_path / "m.onnx", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_the_same_bytes_in_every_process(source: Path, tmp_path: Path) -> None:
    written = set()
    for seed in ("1", "2", "3"):
        out = tmp_path / seed / "m.onnx"
        out.parent.mkdir()
        command = [sys.executable, "-m", "bqc.cli", "compile", str(source), "-o", str(out)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        written.add(out.read_bytes())
    assert len(written) == 1

"""Encoders: layers and roles are named, compiled weights are read back, drift shows where two models part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import bqc
from bqc.diff import InputChoice, diff
from bqc.errors import BqcError
from bqc.ir import load
from bqc.ir.anatomy import VALUE_KEY
from bqc.ir.synthetic import canonical_bert
from bqc.passes import pass_name
from bqc.schemes import scheme_class
from tests.support.edits import disguise
from tests.support.exports import Export
from tests.support.tiny_encoder import write_classifier

RANDOM = InputChoice(samples=4, shape=(2, 12))


def raw(path: Path, **options: object) -> Path:
    """A float encoder without any label."""
    model = canonical_bert(**options)  # type: ignore[arg-type]
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    model.metadata_props.clear()
    ir.save(model, path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw(tmp_path_factory.mktemp("plain") / "model.onnx")


@pytest.fixture(scope="module")
def compiled(plain: Path) -> Path:
    return bqc.compile(plain, output=plain.with_name("model.bqc.onnx")).paths[0]


@pytest.fixture(scope="module")
def spoiled(plain: Path) -> Path:
    """In disguise, and one number of the query weight of layer 1 is off by 1e-3."""
    path = plain.with_name("spoiled.onnx")
    model = onnx.load(plain)
    weight = next(t for t in model.graph.initializer if t.name == "layer.1.attention.query.weight")
    array = numpy_helper.to_array(weight).copy()
    array[3, 5] += np.float32(1e-3)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(disguise(model, 1), path)
    return path


def test_one_number_is_found_and_named(plain: Path, spoiled: Path) -> None:
    report = diff(plain, spoiled, run=RANDOM)
    assert report.signature == report.nodes == []
    (change,) = report.weights
    assert (change.layer, change.role, change.index, change.different) == ("1", "attention.query", [3, 5], 1)
    assert change.values[1] - change.values[0] == pytest.approx(1e-3, rel=1e-3)
    assert report.drift is not None
    assert report.drift.parted is not None
    first = report.drift.tensors[report.drift.parted]
    assert (first.layer, first.role) == ("1", "attention.query")
    assert all(t.relative == 0 for t in report.drift.tensors[: report.drift.parted])


@pytest.mark.parametrize("backwards", [False, True])
def test_a_float_model_against_its_compile(plain: Path, compiled: Path, backwards: bool) -> None:
    report = diff(compiled, plain, run=RANDOM) if backwards else diff(plain, compiled, run=RANDOM)
    assert not report.same
    assert {w.kind for w in report.weights} == {"format"}
    words = {w.format_a if backwards else w.format_b for w in report.weights}
    assert words == {"8-bit shift blocks (block 64)", "8-bit shift blocks (block 64 inside groups of 16)"}
    assert all(w.different == 0 and 0 < w.relative < 0.02 for w in report.weights)
    assert len(report.weights) == 3 + 2 * 6 + 2
    kinds = {change.kind for change in report.nodes}
    assert kinds == {"fused", "removed" if backwards else "added"}
    scheme = scheme_class("bbct")()
    assert {change.made_by for change in report.nodes} <= {pass_name(one) for one in scheme.lower()}
    fused = {(c.layer, c.role): (c.b if backwards else c.a) for c in report.nodes if c.kind == "fused"}
    assert [text.split()[0] for text in fused["0", "attention.query"]] == ["MatMul", "Add"]
    assert "Softmax" in {text.split()[0] for text in fused["1", "attention.context"]}
    assert report.drift is not None
    places = {(t.layer, t.role) for t in report.drift.tensors}
    for layer in ("0", "1"):
        for role in ("query", "key", "value", "context", "norm"):
            assert (layer, f"attention.{role}") in places
        assert {(layer, "ffn.gelu"), (layer, "ffn.norm")} <= places
    assert {("embedding", "embedding.norm"), ("head", "head")} <= places
    assert all(0 < t.relative < 0.1 and t.cosine > 0.99 for t in report.drift.tensors)
    assert report.drift.skipped == []
    macs = {row["what"]: (row["a"], row["b"]) for row in report.costs}
    assert macs["MACs at 1x128, int8 x int8"][0 if backwards else 1] == 2 * 128 * 128 * 32
    whole, compiled = sorted(macs["MACs at 1x128, all"], reverse=True)
    # Behind the last attention only first tokens are computed.
    assert whole - compiled == 127 * (32 * 32 + 2 * 32 * 64)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_another_weight_is_not_the_same_within_the_formats_error(
    plain: Path, bits: int, tmp_path: Path
) -> None:
    compiled = bqc.compile(plain, output=tmp_path / "m.onnx", weight_bits=bits).paths[0]
    assert {w.kind for w in diff(plain, compiled).weights} == {"format"}
    model = onnx.load(plain)
    weight = next(t for t in model.graph.initializer if t.name == "layer.0.ffn.output.weight")
    array = numpy_helper.to_array(weight).copy()
    array[7, 2] += np.float32(0.2)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    wrong = [w for w in diff(tmp_path / "other.onnx", compiled).weights if w.kind != "format"]
    assert [(w.kind, w.layer, w.role, w.index, w.different) for w in wrong] == [
        ("requantised", "0", "ffn.output", [7, 2], 1)
    ]


def test_compiled_models_against_each_other(plain: Path, compiled: Path, tmp_path: Path) -> None:
    again = bqc.compile(plain, output=tmp_path / "again.onnx").paths[0]
    report = diff(compiled, again, run=RANDOM)
    assert report.same
    assert report.drift is not None
    assert report.drift.parted is None
    assert len(report.drift.tensors) >= 17
    fewer = bqc.compile(plain, output=tmp_path / "fewer.onnx", weight_bits=4).paths[0]
    report = diff(compiled, fewer, run=RANDOM)
    assert {w.kind for w in report.weights} == {"requantised"}
    assert {c.kind for c in report.nodes} == {"changed"}
    assert all("bits: 8 -> 4" in "; ".join(c.details) for c in report.nodes if "Linear" in c.a[0])


def test_files_that_do_not_record_values_are_aligned_by_source_names(plain: Path, compiled: Path) -> None:
    model = load(compiled)
    for node in model.graph:
        node.metadata_props.pop(VALUE_KEY, None)
    report = diff(plain, model, run=RANDOM)
    assert {w.kind for w in report.weights} == {"format"}
    assert report.drift is not None
    assert len(report.drift.tensors) >= 16  # not the contexts, which import writes anew


def test_fewer_layers(plain: Path, tmp_path: Path) -> None:
    report = diff(plain, raw(tmp_path / "one.onnx", layers=1))
    assert {c.kind for c in report.nodes} == {"removed"}
    assert len({c.layer for c in report.nodes}) == 1


def test_two_exporters_are_the_same_in_canonical_form() -> None:
    pytest.importorskip("torch")
    one, other = Export("torchscript", 14, "sdpa").path, Export("dynamo", 18).path
    assert diff(one, other, canonical=True).same
    report = diff(one, other)
    assert not report.same
    assert report.notes == ["in canonical form both have the same structure: compare them with --canonical"]


def test_what_is_no_encoder(tmp_path: Path, compiled: Path) -> None:
    path = write_classifier(tmp_path / "tiny.onnx")
    assert diff(path, path).same
    with pytest.raises(BqcError):
        diff(path, path, canonical=True)
    report = diff(path, compiled)
    assert not report.same
    assert report.notes == [f"{path} is no encoder that bqc knows: compared as it is"]


def test_inputs_from_a_file(plain: Path, compiled: Path, tmp_path: Path) -> None:
    ones = np.ones((2, 4), np.int64)
    file = tmp_path / "inputs.npz"
    np.savez(file, input_ids=ones, attention_mask=ones, token_type_ids=ones)
    report = diff(plain, compiled, run=InputChoice(file=file))
    assert report.drift is not None
    assert report.drift.inputs == str(file)
    np.savez(file, input_ids=ones)
    with pytest.raises(BqcError, match="lacks attention_mask"):
        diff(plain, compiled, run=InputChoice(file=file))

"""A decoder that is the word table transposed: one format, one copy, the same numbers; and near misses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.diff import diff
from bqc.errors import BqcError
from bqc.inspect import inspect
from bqc.ir import load
from bqc.ir.anatomy import nodes_of
from bqc.ir.synthetic import canonical_bert
from bqc.passes._weights import tied_tables
from bqc.plan import Plan
from bqc.runtime.feeds import Feeds
from bqc.runtime.tables import Tables
from tests.support.families import VOCABULARY, Cell, exported

SIZES: dict[str, Any] = {"layers": 1, "hidden": 48, "heads": 2, "ffn": 64, "vocab": 90, "head": "masked-lm"}
WORD, DECODER = "embedding:embedding.word", "head:head"
FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "electra", "albert", "mpnet")


def parts(model: ir.Model, role: str) -> list[str]:
    """Which parts of weights of a role are stored."""
    values = model.graph.initializers.values()
    kept = [v for v in values if v.metadata_props.get("bqc.role") == role and "bqc.part" in v.metadata_props]
    return sorted(v.metadata_props["bqc.part"] for v in kept)


def decoder_of(model: ir.Model) -> ir.Value:
    value = model.graph.initializers["decoder.weight"]
    assert value.const_value is not None
    return value


def feeds(vocab: int) -> Feeds:
    rng = np.random.default_rng(3)
    mask = np.ones((2, 9), np.int64)
    mask[0, 5:] = 0
    return {
        "input_ids": rng.integers(0, vocab, (2, 9)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (2, 9)),
    }


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"weight_bits": 8}, 8),
        ({"weight_bits": 4}, 8),
        ({"weight_bits": 8, "embedding_bits": 4}, 4),
        ({"weight_bits": 4, "embedding_bits": 6}, 6),
        ({"weight_bits": 4, "embedding_bits": 4, "block": 16}, 4),
    ],
)
def test_one_format_and_one_copy(tmp_path: Path, options: dict[str, Any], bits: int) -> None:
    result = bqc.compile(canonical_bert(**SIZES), output=tmp_path / "tied.onnx", **options)
    assert result.plan.weights[WORD] == result.plan.weights[DECODER]
    assert result.plan.weights[WORD].bits == bits
    path = result.paths[0]
    compiled = load(path)
    assert parts(compiled, "embedding.word") == ["scales", "tiles"]
    assert parts(compiled, "head") == []
    ops = Counter(node.op_type for node in compiled.graph)
    assert ops["EmbeddingLayerNormTiles"] == 1
    assert not {"EmbeddingLayerNorm", "BlockGather", "MatMul", "BlockDequantizeTiles"} & set(ops)
    (embedding,) = nodes_of(compiled, "embedding", "embedding.norm")
    (decoder,) = nodes_of(compiled, "head", "head")
    assert decoder.op_type == "BlockLinear"
    assert embedding.inputs[3:5] == decoder.inputs[2:4]
    assert Tables(path).rows["input_ids"] == 90
    (kernels,) = bqc.session(path, strict=True).run(None, feeds(90))
    (bodies,) = bqc.session(path, library=False).run(None, feeds(90))
    np.testing.assert_array_equal(kernels, bodies)


def test_the_numbers_are_those_of_two_copies(tmp_path: Path) -> None:
    """A last bit of one number makes the decoder a weight of its own, in the same format."""
    apart = canonical_bert(**SIZES)
    data = decoder_of(apart).const_value.numpy().copy()  # type: ignore[union-attr]
    at = np.unravel_index(np.abs(data).argmin(), data.shape)
    data[at] = np.nextafter(data[at], np.float32(1))
    decoder_of(apart).const_value = ir.tensor(data)
    assert not tied_tables(apart)
    outputs = []
    for name, model in (("tied", canonical_bert(**SIZES)), ("apart", apart)):
        path = bqc.compile(model, output=tmp_path / f"{name}.onnx").paths[0]
        outputs.append(bqc.session(path, strict=True).run(None, feeds(90))[0])
    assert parts(load(path), "embedding.word") == ["exponents", "rows"]
    assert parts(load(path), "head") == ["scales", "tiles"]
    np.testing.assert_array_equal(*outputs)


def test_what_is_not_tied() -> None:
    model = canonical_bert(**{**SIZES, "vocab": 48})
    table = model.graph.initializers["embeddings.word"]
    assert tied_tables(model) == {decoder_of(model): table}
    exact = decoder_of(model).const_value.numpy()  # type: ignore[union-attr]
    for other in (exact.T, exact[:, ::-1], exact.astype(np.float16).astype(np.float32)):
        decoder_of(model).const_value = ir.tensor(np.ascontiguousarray(other))
        assert tied_tables(model) == {}


@pytest.mark.parametrize("alone", ["head", "embedding.word"])
def test_one_of_the_two_cannot_stay_float(tmp_path: Path, alone: str) -> None:
    with pytest.raises(BqcError, match=f"{WORD} and {DECODER} are one shared weight.*give both the same$"):
        bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx", exclude=(alone,))
    both = bqc.compile(
        canonical_bert(**SIZES), output=tmp_path / "m.onnx", exclude=("head", "embedding.word")
    )
    assert {WORD, DECODER}.isdisjoint(both.plan.weights)


def test_a_recipe_with_two_formats(tmp_path: Path) -> None:
    saved = bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx").plan.to_yaml()
    recipe = tmp_path / "plan.yaml"
    recipe.write_text(saved.replace(f"{WORD}: BlockShift(8,64)", f"{WORD}: BlockShift(4,64)"))
    assert Plan.read(recipe).weights[WORD].bits == 4
    with pytest.raises(BqcError, match=r"gives them BlockShift\(4,64\) and BlockShift\(8,64\)"):
        bqc.compile(canonical_bert(**SIZES), output=tmp_path / "other.onnx", recipe=recipe)
    assert not (tmp_path / "other.onnx").exists()


def test_errors_beyond_the_bound_raise_both(tmp_path: Path) -> None:
    options = {"weight_bits": 4, "embedding_bits": 4, "max_error": 1e-6}
    plan = bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx", **options).plan
    assert plan.weights[WORD] == plan.weights[DECODER]
    assert plan.weights[WORD].bits == 8


def test_a_narrow_input_leaves_the_product_float(tmp_path: Path) -> None:
    """The lookup reads the tiles also where the decoder's own product stays float."""
    saved = bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx").plan
    del saved.activations["head:head.norm"]
    recipe = tmp_path / "plan.yaml"
    recipe.write_text(saved.to_yaml())
    compiled = load(bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx", recipe=recipe).paths[0])
    assert parts(compiled, "embedding.word") == ["scales", "tiles"]
    ops = Counter(node.op_type for node in compiled.graph)
    assert (ops["EmbeddingLayerNormTiles"], ops["BlockDequantizeTiles"], ops["MatMul"]) == (1, 1, 1)


def test_bytes_count_once_and_products_by_use(tmp_path: Path) -> None:
    plain = inspect(canonical_bert(**SIZES), 2, 10)
    path = bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx").paths[0]
    report = inspect(path, 2, 10)
    assert report["cost"]["macs"] == plain["cost"]["macs"]
    assert report["cost"]["parameters"] == plain["cost"]["parameters"] - 48 * 90
    macs = {row["role"]: row["macs"] for row in report["roles"]}
    assert macs["head"] == 2 * 10 * 48 * 90
    assert macs["embedding.word"] == 0
    (word,) = [row for row in report["bit_widths"] if row["role"] == "embedding.word"]
    assert (word["weights"], word["bytes"]) == (90 * 48, 96 * 48 + 96)
    assert sum(row["bytes"] for row in report["bit_widths"]) <= report["bytes"]["payload"]


def test_diff_knows_the_table_and_the_decoder(tmp_path: Path) -> None:
    plain = tmp_path / "plain.onnx"
    ir.save(canonical_bert(**SIZES), plain)
    path = bqc.compile(plain, output=tmp_path / "m.onnx").paths[0]
    report = diff(plain, path)
    assert {change.kind for change in report.weights} == {"format"}
    assert all(change.different == 0 for change in report.weights)
    found = {(change.layer, change.role): change.bytes_b for change in report.weights}
    assert found["embedding", "embedding.word"] == 96 * 48 + 96
    assert found["head", "head"] == 0
    stored = {row["what"]: row["b"] for row in report.costs}["bytes, all"]
    assert stored == sum(
        v.const_value.nbytes for v in load(path).graph.initializers.values() if v.const_value
    )
    four = bqc.compile(plain, output=tmp_path / "four.onnx", embedding_bits=4).paths[0]
    changed = {(change.layer, change.role) for change in diff(path, four).weights}
    assert changed >= {("embedding", "embedding.word"), ("head", "head")}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    source = exported("torchscript", Cell(family, "masked-lm"))
    result = bqc.compile(source, output=tmp_path / "m.onnx", weight_bits=4)
    assert "one copy is stored" in dict(result.summary)["note"]
    compiled = load(result.paths[0])
    assert parts(compiled, "embedding.word") == ["scales", "tiles"]
    assert parts(compiled, "head") == []
    assert Tables(result.paths[0]).rows["input_ids"] == VOCABULARY
    assert inspect(result.paths[0])["cost"]["macs"] == inspect(source)["cost"]["macs"]
    got = []
    for library in (True, False):
        session = bqc.session(result.paths[0], library=library)
        given = feeds(VOCABULARY)
        got.append(session.run(None, {value.name: given[value.name] for value in session.get_inputs()})[0])
    np.testing.assert_array_equal(*got)

"""Models exported for one batch size and sequence length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.ir import import_model, load
from bqc.passes.import_flat import ImportFlat
from bqc.passes.import_positions import ImportPositions
from tests.support.exports import largest_difference, session
from tests.support.families import Cell, exported


@pytest.mark.parametrize("head", ["bare", "classification"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_same_results_in_that_shape(family: str, head: str, tmp_path: Path) -> None:
    path = exported("torchscript-fixed", Cell(family, head))
    model, summary = import_model(path)
    assert not summary.misses
    assert largest_difference(path, model) < 1e-5
    dynamic = exported("torchscript", Cell(family, head))
    fixed, other = (
        bqc.compile(p, output=tmp_path / f"{i}.onnx", block=16) for i, p in enumerate((path, dynamic))
    )
    assert fixed.operators == other.operators


POSITIONS = """g (int64[B, S] ids) => (float[B, S, 4] y) <float[9, 4] word = {WORDS}, float[1, 3, 4] rows = {ROWS}> {
e = Gather(word, ids)
y = Add(e, rows)
}"""


def positions(batch: str, sequence: str) -> ir.Model:
    rng = np.random.default_rng(0)
    words, rows = (", ".join(f"{x:.3f}" for x in rng.random(n)) for n in (36, 12))
    text = POSITIONS.replace("WORDS", words).replace("ROWS", rows)
    text = text.replace("[B, S", f"[{batch}, {sequence}")
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 21]> {text}')


def test_folded_positions_are_a_lookup_again() -> None:
    model = positions("B", "3")
    before = ir.from_proto(ir.to_proto(model))
    assert ImportPositions()(model).modified
    assert [n.op_type for n in model.graph].count("Gather") == 2
    feeds = {"ids": np.arange(6, dtype=np.int64).reshape(2, 3)}
    np.testing.assert_array_equal(*(session(m).run(None, feeds)[0] for m in (before, model)))


@pytest.mark.parametrize("sequence", ["S", "1"])
def test_rows_of_another_length_are_left(sequence: str) -> None:
    assert not ImportPositions()(positions("B", sequence)).modified


FLAT = """g (int64[B, 3] ids, float[B, 3, 4] x) => (float[B, 3, 4] y) <
int64[2] rows = {6, 4}, int64[3] tokens = {2, 3, 4}, float[4, 4] weight = {WEIGHT}> {
r = Reshape(x, rows)
m = MatMul(r, weight)
y0 = Reshape(m, tokens)
y = Tanh(y0)
}"""


def flat(batch: str) -> ir.Model:
    weight = ", ".join(f"{x:.3f}" for x in np.random.default_rng(0).random(16))
    text = FLAT.replace("WEIGHT", weight).replace("[B", f"[{batch}")
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 21]> {text}')


def test_rows_of_all_tokens_get_their_axes_back() -> None:
    model = flat("2")
    before = ir.from_proto(ir.to_proto(model))
    assert ImportFlat()(model).modified
    assert [n.op_type for n in model.graph][-2:] == ["MatMul", "Tanh"]
    x = np.random.default_rng(1).random((2, 3, 4), np.float32)
    feeds = {"ids": np.zeros((2, 3), np.int64), "x": x}
    np.testing.assert_array_equal(*(session(m).run(None, feeds)[0] for m in (before, model)))


def test_rows_of_an_open_batch_are_left() -> None:
    assert not ImportFlat()(flat("B")).modified


@pytest.mark.slow
def test_dynamo_folds_the_positions() -> None:
    path = exported("dynamo-fixed", Cell("bert", "bare"))
    assert any(
        v.const_value is not None and len(v.const_value.shape) == 3
        for v in load(path).graph.initializers.values()
    )
    model, _ = import_model(path)
    assert largest_difference(path, model) < 1e-5

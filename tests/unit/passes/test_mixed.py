"""Partly foreign encoders: the rest is compiled, and the summary names what stays float."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

import bqc
from bqc.errors import BqcError
from bqc.inspect import inspect
from bqc.ir import import_model
from bqc.ir.anatomy import nodes_of
from bqc.ir.synthetic import canonical_bert
from bqc.verify import verify
from tests.support.exports import largest_difference
from tests.support.foreign import EMBEDDINGS, HEADS, LAYERS, Change, foreign

CASES = [
    *((change, layer, [part.format(i=layer)]) for change, part in LAYERS.values() for layer in ("1",)),
    *(
        (LAYERS[name][0], layer, [LAYERS[name][1].format(i=layer)])
        for name in ("silu", "adapter")
        for layer in "02"
    ),
    *((change, "1", ["embedding:embedding.sum"]) for change in EMBEDDINGS.values()),
    *((change, "1", parts) for change, parts in HEADS.values()),
]
NAMES = [*LAYERS, "silu-0", "silu-2", "adapter-0", "adapter-2", *EMBEDDINGS, *HEADS]


@pytest.mark.parametrize(("change", "layer", "parts"), CASES, ids=NAMES)
def test_the_rest_is_compiled(change: Change, layer: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(foreign(change, layer), path)
    canonical, summary = import_model(path)
    found = [part.part for part in summary.encoder.float_parts]
    assert found[: len(parts)] == parts
    assert bool(found) == bool(parts)
    assert summary.encoder.layers == 3
    assert largest_difference(path, canonical) < 1e-5
    result = bqc.compile(path, output=tmp_path / "small.onnx", block=32)
    assert [part.part for part in result.float_parts] == found
    attentions = len(list(nodes_of(canonical, role="attention.softmax")))
    assert result.operators["BlockAttention"] == attentions >= 2
    assert "BlockDequantizeTiles" not in result.operators
    report = verify(result.paths[0], path, bits=True, shape=(16, 24), samples=96)
    assert report.ok, [check.text for check in report.checks if not check.ok]
    shown = inspect(result.paths[0])["float_parts"]
    assert [row["part"] for row in shown] == found
    assert shown == inspect(path)["float_parts"]


def test_one_row_for_what_all_layers_have(tmp_path: Path) -> None:
    model = foreign(lambda model, _: [LAYERS["silu"][0](model, layer) for layer in "012"])
    result = bqc.compile(model, output=tmp_path / "small.onnx")
    rows = [text for name, text in result.summary if name == "float"]
    assert rows == [
        "0:ffn.gelu, 1:ffn.gelu, 2:ffn.gelu (the activation (Sigmoid, Mul) is neither Gelu nor Relu)"
    ]


def test_require_full_names_the_part(tmp_path: Path) -> None:
    change, part = LAYERS["rms-norm"]
    with pytest.raises(BqcError, match=rf"--require-full asks: {part.format(i=1)} \(not found: LayerNorm"):
        bqc.compile(foreign(change), output=tmp_path / "small.onnx", require_full=True)
    assert not list(tmp_path.iterdir())


def test_relu_is_whole(tmp_path: Path) -> None:
    model = canonical_bert(hidden=64)
    for gelu in [n for n in model.graph if n.op_type == "Gelu"]:
        gelu.op_type = "Relu"
        gelu.attributes.clear()
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    result = bqc.compile(path, output=tmp_path / "small.onnx", require_full=True)
    assert not result.float_parts
    assert inspect(result.paths[0])["anatomy"]["relus"] == 2
    assert verify(result.paths[0], path, bits=True, shape=(16, 24), samples=96).ok


def test_other_numbers_of_heads_stay_float() -> None:
    """Pruned heads: formats of activations go by head, so there is one size of them."""
    model = canonical_bert(layers=2, hidden=64, heads=2)
    for role in ("query", "key", "value"):
        split = next(n for n in nodes_of(model, "1", f"attention.{role}") if n.op_type == "Reshape")
        assert split.inputs[1] is not None
        four = ir.Value(name=f"four_{role}", const_value=ir.tensor([0, 0, 4, 16], name=f"four_{role}"))
        four.dtype, four.shape = ir.DataType.INT64, ir.Shape([4])
        model.graph.register_initializer(four)
        split.replace_input_with(1, four)
    _, summary = import_model(ir.from_proto(ir.to_proto(model)))
    (part,) = summary.encoder.float_parts
    assert part.part == "1:attention"
    assert "as many heads, as wide, as in the other layers" in part.reason


def test_without_any_attention_there_is_nothing_to_compile() -> None:
    model = foreign(lambda model, _: [LAYERS["clip-scores"][0](model, layer) for layer in "012"])
    with pytest.raises(
        BqcError, match=r"only part of the encoder is recognised: 0 complete layers, 0:attention"
    ):
        import_model(model)

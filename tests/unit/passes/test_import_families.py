"""Families and heads beside BERT: the canonical form computes the same, compiles, and keeps its bits.

`tools/support_matrix.py` runs every family with every head and exporter; here is a cell for each difference.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.errors import BqcError
from bqc.ir import import_model, load
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, nodes_of, role, weights_of
from bqc.ir.probe import WEIGHT_LIMIT
from bqc.ir.unsupported import unsupported
from bqc.verify import verify
from tests.support.exporters_written import EXPORTERS as WRITTEN
from tests.support.exports import largest_difference
from tests.support.families import Cell, exported

CELLS = (
    Cell("distilbert", "classification"),
    Cell("roberta", "tokens"),
    Cell("electra", "classification", "sdpa"),
    Cell("mpnet", "mean-l2"),
    Cell("albert", "masked-lm"),
)
SLOW = (
    Cell("xlm-roberta", "question-answering"),
    Cell("camembert", "classification", "sdpa"),
    Cell("electra-same-size", "masked-lm"),
    Cell("distilbert", "cls-l2", "sdpa"),
    Cell("bert", "masked-lm"),
    Cell("minilm", "cls"),
)
REFUSED = {
    "deberta-v2": "DeBERTa (disentangled attention) is not supported",
    "modernbert": "rotary position embedding (RoPE, as in ModernBERT and NomicBERT) is not supported",
    "roberta-prelayernorm": "normalisation before the attention (pre-norm) is not supported",
    "convbert": "an encoder with convolutions (ConvBERT, SqueezeBERT) is not supported",
}

slow = pytest.mark.slow


@pytest.mark.parametrize("exporter", ["torchscript-half", "torchscript-added-mask"])
def test_half_precision_and_masks_that_are_added(exporter: str, tmp_path: Path) -> None:
    path = exported(exporter, Cell("bert", "tokens"))
    model, summary = import_model(path)
    assert (summary.encoder.attentions, summary.encoder.float_parts) == (2, ())
    assert largest_difference(path, model) < (2e-2 if exporter == "torchscript-half" else 1e-5)
    compiled = bqc.compile(path, output=tmp_path / "out.onnx", block=16).paths[0]
    assert verify(compiled, path).ok


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=slow)])
@pytest.mark.parametrize("cell", [*CELLS, *(pytest.param(c, marks=slow) for c in SLOW)], ids=str)
def test_canonical_form(exporter: str, cell: Cell) -> None:
    path = exported(exporter, cell)
    model, summary = import_model(path)
    found = summary.encoder
    assert (found.layers, found.attentions, found.hidden, found.vocab) == (2, 2, 48, 120)
    assert found.mask
    assert found.embedding == (32 if cell.family in ("electra", "albert") else 0)
    assert (found.types == 0) == (cell.family in ("distilbert", "mpnet"))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert largest_difference(path, model) < 1e-5
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.size > 64:
            assert LAYER_KEY in value.metadata_props, value.name
            assert ROLE_KEY in value.metadata_props, value.name
    # What computes token types, positions and biases needs the sizes of no hidden state.
    for node in model.graph:
        if node.op_type == "Shape" and role(node) is not None:
            assert node.inputs[0] is not None
            assert node.inputs[0].dtype is ir.DataType.INT64, node.name


@pytest.mark.parametrize("cell", [*CELLS, *(pytest.param(c, marks=slow) for c in SLOW)], ids=str)
def test_compiles_to_integers(cell: Cell, tmp_path: Path) -> None:
    path = exported("torchscript", cell)
    result = bqc.compile(path, output=tmp_path / "small.onnx", block=16)
    assert not result.plan.kept
    assert "float" not in dict(result.summary)
    compiled = onnx.load(result.paths[0], load_external_data=False)
    left = {node.op_type for node in compiled.graph.node if node.domain != "ai.bqc"}
    assert not left & {"MatMul", "LayerNormalization", "Gelu", "Tanh", "Softmax", "Erf"}
    # Fewer rows, and a single near-tie of a random model's logits decides the argmax agreement.
    report = verify(result.paths[0], path, bits=True, shape=(16, 24), samples=96)
    assert report.ok, [check.text for check in report.checks if not check.ok]


def test_a_shared_weight_is_stored_once_for_each_grouping(tmp_path: Path) -> None:
    path = WRITTEN["projections-share-weights"](exported("torchscript", Cell("bert", "bare")))
    result = bqc.compile(path, output=tmp_path / "small.onnx", block=16)
    plain, grouped = (result.plan.weights[f"0:attention.{name}"] for name in ("query", "output"))
    assert (plain.group, grouped.group) == (0, 12)
    tiles = [v.name for v in weights_of(load(result.paths[0]), "0") if str(v.name).endswith(".tiles")]
    assert len(tiles) == 5
    assert sum(".group12." in str(name) for name in tiles) == 1
    report = verify(result.paths[0], path, bits=True)
    assert report.ok, [check.text for check in report.checks if not check.ok]


@pytest.mark.parametrize("family", REFUSED)
def test_refused_by_name(family: str) -> None:
    with pytest.raises(BqcError) as error:
        import_model(exported("torchscript", Cell(family, "bare")))
    assert str(error.value).startswith(REFUSED[family])


def test_the_layer_after_another_activation_is_recognised() -> None:
    cell = Cell("bert", "bare", changes=(("hidden_act", "silu"),))
    _, summary = import_model(exported("torchscript", cell))
    assert [part.part for part in summary.encoder.float_parts] == ["0:ffn.gelu", "1:ffn.gelu"]


def test_a_decoder_is_refused_by_name() -> None:
    cell = Cell("bert", "bare", changes=(("is_decoder", True), ("use_cache", False)))
    with pytest.raises(
        BqcError, match=r"^a decoder, whose tokens see only those before them .* is not supported"
    ):
        import_model(exported("torchscript", cell))


_VECTORS = "<int64[1] last = {-1}, float two = {2.0}, float eps = {1e-6}, float[1,3,1,1] w = {1.0, 1.0, 1.0}>"


@pytest.mark.parametrize(
    ("inputs", "body", "name"),
    [
        (
            "float[B,S,4] x",
            "q = Pow(x, two)\nv = ReduceMean(q, last)\ne = Add(v, eps)\ny = Sqrt(e)",
            "RMSNorm",
        ),
        ("float[B,3,8,8] x", "y = Conv(x, w)", "a network for images"),
        ("float[B,3,8,8] x, int64[B,S] ids", "y = Conv(x, w)", "an encoder with convolutions"),
        ("float[B,S,4] x", "d = Sub(x, two)\nq = Pow(d, two)\nv = ReduceMean(q, last)\ny = Sqrt(v)", None),
        ("float[B,S] x", "c = Less(x, two)\nf = Cast<to = 1>(c)\ny = Softmax(f)", "an encoder without Layer"),
        ("float[S,S] x", "c = Trilu(x)\ny = Softmax(c)", "a decoder"),
    ],
)
def test_names_of_what_is_not_supported(inputs: str, body: str, name: str | None) -> None:
    text = f'<ir_version: 10, opset_import: ["" : 21]> n ({inputs}) => (float y) {_VECTORS} {{{body}}}'
    found = unsupported(ir.from_onnx_text(text).graph)
    assert found is None if name is None else (found or "").startswith(name)


def test_positions_that_count_tokens() -> None:
    model, _ = import_model(exported("torchscript", Cell("roberta", "tokens")))
    made = [n.op_type for n in nodes_of(model, "embedding", "embedding.position")]
    assert made == ["Equal", "Not", "Cast", "CumSum", "Mul", "Add", "Gather"]


def test_a_bias_is_added_before_the_mask() -> None:
    model, _ = import_model(exported("torchscript", Cell("mpnet", "mean-l2")))
    for layer in ("0", "1"):
        adds = [n for n in nodes_of(model, layer, "attention.scores") if n.op_type == "Add"]
        added = [role(node.inputs[1].producer()) for node in adds]  # type: ignore[union-attr, arg-type]
        assert added == ["attention.bias", "attention.mask"]
    tables = [v for v in weights_of(model, "embedding", "attention.bias") if v.const_value is not None]
    assert [v.const_value.shape.numpy() for v in tables if v.const_value is not None] == [(32, 4)]


def test_a_bias_may_be_folded_to_a_constant(tmp_path: Path) -> None:
    batch, sequence = 2, 20
    proto = ir.to_proto(import_model(exported("torchscript", Cell("mpnet", "tokens")))[0])
    added = [n for n in proto.graph.node if n.op_type == "Add" and list(n.input).count(n.input[1]) == 1]
    softmaxes = {n.input[0] for n in proto.graph.node if n.op_type == "Softmax"}
    last = next(n for n in added if n.output[0] in softmaxes)
    (name,) = {n.input[1] for n in added if n.output[0] == last.input[0]}
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(proto.SerializeToString())
    shown = np.ones((batch, sequence), np.int64)
    bias = np.asarray(session.run([name], {v.name: shown for v in session.get_inputs()})[0])
    assert bias.size > WEIGHT_LIMIT
    proto.graph.output.pop()
    for node in proto.graph.node:
        node.input[:] = ["folded" if value == name else value for value in node.input]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(bias, "folded"))
    for value in (*proto.graph.input, *proto.graph.output):
        for dim, size in zip(value.type.tensor_type.shape.dim, (batch, sequence), strict=False):
            dim.dim_value = size
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "folded.onnx")
    model, summary = import_model(tmp_path / "folded.onnx")
    assert summary.encoder.attentions == 2
    (constant,) = weights_of(model, "embedding", "attention.bias")
    assert constant.name == "folded"
    compiled = bqc.compile(tmp_path / "folded.onnx", output=tmp_path / "out.onnx", block=16).paths[0]
    assert verify(compiled, tmp_path / "folded.onnx").ok


def test_shared_weights_are_stored_once(tmp_path: Path) -> None:
    path = exported("torchscript", Cell("albert", "masked-lm"))
    model, _ = import_model(path)
    products = [n for n in nodes_of(model, None, "ffn.intermediate") if n.op_type == "MatMul"]
    assert len({node.inputs[1] for node in products}) == 1
    assert len(products) == 2
    result = bqc.compile(path, output=tmp_path / "small.onnx")
    assert {"0:ffn.output", "1:ffn.output"} <= set(result.plan.weights)
    compiled = load(result.paths[0])
    tiles = [v for v in weights_of(compiled, role="ffn.output") if str(v.name).endswith(".tiles")]
    assert len(tiles) == 1
    assert "the decoder is the word table" in dict(result.summary)["note"]
    with pytest.raises(BqcError, match=r"0:ffn\.output and 1:ffn.output are one shared weight"):
        bqc.compile(path, output=tmp_path / "other.onnx", exclude=("1:ffn.output",))
    assert not (tmp_path / "other.onnx").exists()

"""No encoder is an error that says what was looked for and what was found; of half of one the rest stays float."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.ir import encoder, import_model
from bqc.ir.anatomy import layer, nodes_of, role, weights_of
from bqc.ir.synthetic import canonical_bert

MLP = """<ir_version: 10, opset_import: ["" : 17]> mlp (float[N, 2] x) => (float[N, 2] y)
<float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {0.0, 1.0}> {
h = Gemm(x, w, b)
r = Relu(h)
y = MatMul(r, w)
}"""


def test_a_perceptron_has_no_encoder() -> None:
    with pytest.raises(BqcError) as error:
        import_model(ir.from_onnx_text(MLP))
    assert "no encoder found: looked for word + type + position" in str(error.value)
    assert "found 0 Softmax, 0 LayerNormalization, 0 Gelu, 0 attentions" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_second_layer_stays_float() -> None:
    model = canonical_bert()
    norms = [n for n in model.graph if n.op_type == "LayerNormalization"]
    norms[-1].op_type = "Identity"
    norms[-1].attributes.clear()
    norms[-1].resize_inputs(1)
    _, summary = import_model(model)
    (part,) = summary.encoder.float_parts
    assert str(part) == "1:ffn (not found: LayerNormalization after Add (but Gather))"


def test_a_linear_that_does_not_fit_stays_float() -> None:
    """A row of its matrix is missing: what runs it would fail, and no block of it can be quantised."""
    model = canonical_bert()
    (weight,) = [w for w in weights_of(model, "1", "attention.output") if len(w.shape or ()) == 2]
    assert weight.const_value is not None
    data = weight.const_value.numpy()[:-1]
    weight.const_value, weight.shape = ir.tensor(data), ir.Shape(data.shape)
    _, summary = import_model(model)
    assert str(summary.encoder.float_parts[0]).startswith("1:attention (not found: a linear of 32 inputs")


def test_reading_labels() -> None:
    model = canonical_bert(layers=3, hidden=24, heads=2, ffn=40, vocab=50, positions=16)
    found = encoder(model)
    assert (found.layers, found.hidden, found.heads, found.head_dim, found.ffn) == (3, 24, 2, 12, 40)
    assert (found.vocab, found.positions, found.types, found.norms) == (50, 16, 2, 7)
    assert found.pooler
    assert found.head == 2
    (softmax,) = nodes_of(model, "2", "attention.softmax")
    assert (layer(softmax), role(softmax)) == ("2", "attention.softmax")
    assert len(list(weights_of(model, "1", "ffn.norm"))) == 2
    assert "3 layers" in str(found)


def test_labels_survive_a_file_round_trip() -> None:
    model = ir.from_proto(ir.to_proto(canonical_bert()))
    assert encoder(model) == encoder(canonical_bert())


def test_without_labels_there_is_no_summary() -> None:
    with pytest.raises(BqcError, match="no anatomy labels"):
        encoder(ir.from_onnx_text(MLP))

"""Later opsets: Attention written out has ONNX Runtime's values; the future is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from bqc.errors import BqcError
from bqc.passes.import_later import ImportLater

B, S, HEADS, SIZE = 2, 5, 3, 4


def attention(shape: str, mask: str, attributes: str) -> str:
    kept = ", kept" if mask else ""
    return (
        f'<ir_version: 10, opset_import: ["" : 23]> one (float[{shape}] q, float[{shape}] k, float[{shape}] v'
        f"{', ' + mask + ' kept' if mask else ''}) => (float[{shape}] y) "
        f"{{ y = Attention <{attributes}> (q, k, v{kept}) }}"
    )


@pytest.mark.parametrize("mask", ["", "bool[B, 1, S, S]", "bool[S, S]", "float[B, 1, S, S]"])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        (f"B, {HEADS}, S, {SIZE}", "scale = 0.3"),
        (f"B, {HEADS}, S, {SIZE}", ""),
        (f"B, S, {HEADS * SIZE}", f"q_num_heads = {HEADS}, kv_num_heads = {HEADS}"),
    ],
)
def test_attention(shape: str, attributes: str, mask: str) -> None:
    text = attention(shape, mask, attributes).replace(" <> ", " ")
    later = onnx.parser.parse_model(text)
    model = ir.from_onnx_text(text)
    assert ImportLater()(model).modified
    assert dict(model.graph.opset_imports) == {"": 21}
    assert "Attention" not in [node.op_type for node in model.graph]
    feeds = drawn(later)
    want, got = (run(proto, feeds) for proto in (later, ir.to_proto(model)))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_half_precision() -> None:
    text = attention(f"B, {HEADS}, S, {SIZE}", "bool[B, 1, S, S]", "scale = 0.3").replace(
        "float[", "float16["
    )
    later = onnx.parser.parse_model(text)
    model = ir.from_onnx_text(text)
    ImportLater()(model)
    feeds = drawn(later)
    want, got = (run(proto, feeds) for proto in (later, ir.to_proto(model)))
    assert got.dtype == want.dtype == np.float16
    np.testing.assert_allclose(got, want, atol=4e-3)


def drawn(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng, feeds = np.random.default_rng(0), {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        sizes = [d.dim_value or {"B": B, "S": S}[d.dim_param] for d in kind.shape.dim]
        if kind.elem_type == onnx.TensorProto.BOOL:
            feeds[value.name] = rng.random(sizes) < 0.6
            feeds[value.name][..., 0] = True
        else:
            feeds[value.name] = rng.standard_normal(sizes).astype(
                onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            )
    return feeds


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def test_an_opset_of_the_future() -> None:
    text = '<ir_version: 10, opset_import: ["" : 999]> future (float[N] x) => (float[N] y) { y = Relu(x) }'
    with pytest.raises(BqcError, match=f"opset 999; the installed onnx {onnx.__version__} knows opset 1 to"):
        ImportLater()(ir.from_onnx_text(text))

"""Feed-forward networks of signs by signs, compiled by a recipe: what they become, and the same bits everywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bqc
from bqc.diff import diff
from bqc.formats import Xnor
from bqc.ir.synthetic import canonical_bert
from bqc.ops import reference
from bqc.plan import Plan
from tests.support.exporters_written import unlabelled

FFN = ("ffn.intermediate", "ffn.output")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    ir.save(unlabelled(canonical_bert(layers=2, hidden=48, heads=2, ffn=72)), folder / "model.onnx")
    return folder / "model.onnx"


def feeds(batch: int = 3, length: int = 9) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mask = np.ones((batch, length), np.int64)
    mask[0, length // 2 + 1 :] = 0
    return {
        "input_ids": rng.integers(0, 100, (batch, length)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (batch, length)),
    }


def compiled(source: Path, folder: Path, formats: dict[str, str], drop: tuple[str, ...] = ()) -> Path:
    """The model with these formats of weights, the rest as in `bbct`."""
    recipe = folder / "recipe.yaml"
    bqc.compile(source, output=folder / "unused.onnx", save_recipe=recipe, dry_run=True)
    plan = Plan.read(recipe)
    plan.weights.update({key: Xnor.parse(text) for key, text in formats.items()})
    for point in drop:
        del plan.activations[point]
    recipe.write_text(plan.to_yaml())
    result = bqc.compile(source, output=folder / "signs.onnx", recipe=recipe)
    assert result.plan == plan
    return result.paths[0]


def operators(path: Path, layer: int | None = None) -> Counter[str]:
    graph = onnx.load(path, load_external_data=False).graph
    labels = [{p.key: p.value for p in node.metadata_props} for node in graph.node]
    return Counter(
        node.op_type
        for node, label in zip(graph.node, labels, strict=True)
        if layer is None or label.get("bqc.layer") == str(layer)
    )


def same_everywhere(path: Path) -> list[Any]:
    """Outputs, the same bits with kernels and without."""
    with_kernels = bqc.session(path, strict=True).run(None, feeds())
    without = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds())
    for a, b in zip(with_kernels, without, strict=True):
        assert a.tobytes() == b.tobytes()
        assert np.isfinite(a).all()
    return list(with_kernels)


@pytest.mark.parametrize("scale", ["one", "tensor", "row"])
def test_a_network_of_signs_has_no_float_inside(source: Path, tmp_path: Path, scale: str) -> None:
    path = compiled(source, tmp_path, {f"1:{role}": f"Xnor({scale})" for role in FFN})
    assert operators(path, 1) == operators(path, 0) - Counter(["BlockLinearGelu"]) - Counter(
        {"BlockLinearAddNorm": 1}
    ) + Counter(["BinarizeCodes", "XnorLinearBinarize", "XnorLinearAddNorm"])
    assert not any(name.endswith(("Dequantize", "DequantizeTiles")) for name in operators(path))
    same_everywhere(path)


def test_the_sign_of_gelu_is_that_of_its_input(source: Path, tmp_path: Path) -> None:
    """Where the plan quantises nothing between the two products, and where it does, alike."""
    formats = {f"{layer}:{role}": "Xnor(row)" for layer in (0, 1) for role in FFN}
    planned = same_everywhere(compiled(source, tmp_path, formats))
    (tmp_path / "again").mkdir()
    left_out = compiled(source, tmp_path / "again", formats, drop=("0:ffn.gelu", "1:ffn.gelu"))
    assert operators(left_out)["XnorLinearBinarize"] == 2
    for a, b in zip(planned, same_everywhere(left_out), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("ffn.output", {"BlockLinear": 1, "Binarize": 1, "XnorLinearAddNorm": 1}),
        ("ffn.intermediate", {"BinarizeCodes": 1, "XnorLinear": 1, "Gelu": 1, "BlockQuantize": 1}),
        ("attention.output", {"BinarizeCodes": 1, "XnorLinearAddNorm": 1}),
        ("attention.query", {"BinarizeCodes": 1, "XnorLinear": 1, "BlockQuantize": 1}),
        ("attention.value", {"BinarizeCodes": 1, "XnorLinear": 1, "BlockQuantizeValues": 1}),
    ],
)
def test_one_linear_of_signs(source: Path, tmp_path: Path, role: str, expected: dict[str, int]) -> None:
    path = compiled(source, tmp_path, {f"1:{role}": "Xnor(row)"})
    found = operators(path, 1)
    before = operators(path, 0)
    assert {name: found[name] for name in expected} == expected
    assert found["BlockLinearGelu"] == before["BlockLinearGelu"] - role.startswith("ffn")
    same_everywhere(path)


def test_their_weights_are_read_back(source: Path, tmp_path: Path) -> None:
    """`bqc diff` knows stored signs for those of the float weights, and another weight's for another's."""
    path = compiled(source, tmp_path, {f"1:{role}": "Xnor(row)" for role in FFN})
    assert {weight.kind for weight in diff(source, path).weights} == {"format"}
    model = onnx.load(source)
    weight = next(t for t in model.graph.initializer if t.name == "layer.1.ffn.output.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[7, 2] *= -1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    wrong = [w for w in diff(tmp_path / "other.onnx", path).weights if w.kind != "format"]
    assert [(w.kind, w.layer, w.role, w.index, w.different) for w in wrong] == [
        ("requantised", "1", "ffn.output", [7, 2], 1)
    ]


def test_layers_share_a_pair(source: Path, tmp_path: Path) -> None:
    formats = {f"1:attention.{role}": "Xnor(one)" for role in ("query", "key", "value")}
    found = operators(compiled(source, tmp_path, formats), 1)
    assert found["BinarizeCodes"] == 1
    assert found["XnorLinear"] == 3


def test_heads_of_signs(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    bqc.compile(source, output=tmp_path / "unused.onnx", save_recipe=recipe, dry_run=True)
    heads = {key for key in Plan.read(recipe).weights if key.startswith("head:")}
    assert heads
    path = compiled(source, tmp_path, dict.fromkeys(heads, "Xnor(row)"))
    assert operators(path)["XnorLinear"] == len(heads)
    same_everywhere(path)


def test_tables_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        bqc.BqcError,
        match=r"recipe\.yaml: weights: embedding:embedding\.word: Xnor\(one\) is a format of linears",
    ):
        compiled(source, tmp_path, {"embedding:embedding.word": "Xnor(one)"})


def test_what_a_binarised_network_computes(source: Path, tmp_path: Path) -> None:
    """The last layer's second product, from the signs that its operators pass on."""
    path = compiled(source, tmp_path, {f"1:{role}": "Xnor(one)" for role in FFN})
    model = onnx.load(path)
    nodes = {
        node.op_type: node for node in model.graph.node if node.op_type.startswith(("Xnor", "BinarizeC"))
    }
    names = [
        *nodes["BinarizeCodes"].input,
        *nodes["XnorLinearBinarize"].output,
        *nodes["XnorLinearAddNorm"].output,
    ]
    types = [onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT8]
    for name, kind in zip(names, types, strict=True):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    x, bits, *out = ort.InferenceSession(model.SerializeToString()).run(names, feeds())
    proto = onnx.load(source)
    floats = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    shapes = {(48, 72): [], (72, 48): [], (72,): []}
    for array in floats.values():
        if array.shape in shapes:
            shapes[array.shape].append(array)
    sign = np.where(x > 0, 1, -1) @ np.where(shapes[48, 72][1] > 0, 1, -1)
    y = sign.astype(np.float32) + shapes[72,][1]
    np.testing.assert_array_equal(bits, np.packbits(y > 0, axis=-1, bitorder="little"))
    np.testing.assert_array_equal(bits, np.packbits(reference.gelu(y, approximate=0) > 0, -1, "little"))
    assert out[0].shape == x.shape

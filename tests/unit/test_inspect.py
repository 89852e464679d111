"""The inspect report adds up, for float, half-precision and compiled models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

import bqc
from bqc.inspect import SCHEMA_VERSION, inspect
from bqc.ir.synthetic import canonical_bert
from bqc.opt import write_model


def test_cost_and_bytes_of_a_float_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(canonical_bert(layers=2, hidden=32, heads=2, ffn=64), path, external_data="model.onnx.data")
    report = inspect(path, batch=2, sequence=10)
    assert report["schema_version"] == SCHEMA_VERSION
    json.dumps(report)
    tokens, per_layer = 20, 4 * 32 * 32 + 2 * 32 * 64
    attention = 2 * (2 * 10 * 10 * 32)
    head = 2 * (32 * 32 + 32 * 2)
    assert report["cost"]["macs"] == 2 * (tokens * per_layer + attention) + head
    layers = {row["layer"]: row for row in report["layers"]}
    assert list(layers) == ["embedding", "0", "1", "head"]
    assert layers["0"]["macs"] == tokens * per_layer + attention
    assert layers["embedding"]["parameters"] == (100 + 2 + 64 + 2) * 32
    roles = {row["role"]: row for row in report["roles"]}
    assert roles["ffn.intermediate"]["parameters"] == 2 * (32 * 64 + 64)
    assert sum(row["parameters"] for row in report["roles"]) == report["cost"]["parameters"]
    assert {row["bits"] for row in report["bit_widths"]} == {32}
    sizes = report["bytes"]
    data = (tmp_path / "model.onnx.data").stat().st_size
    assert sizes["file"] == path.stat().st_size + data
    assert sizes["payload"] + sizes["metadata"] == sizes["file"]


def test_of_a_text_the_rest_of_the_file_is_not_what_weights_leave(tmp_path: Path) -> None:
    path = tmp_path / "model.onnxtxt"
    write_model(canonical_bert(layers=1), path)
    assert path.stat().st_size < inspect(path)["bytes"]["payload"]
    assert inspect(path)["bytes"]["metadata"] is None


def test_packed_weights_say_what_they_stand_for() -> None:
    model = canonical_bert()
    model.metadata_props["bqc.format_version"] = "1"
    weight = model.graph.initializers["layer.0.ffn.intermediate.weight"]
    for part, data, elements in (
        ("tiles", np.zeros(32 * 64, np.int8), 32 * 64),
        ("scales", np.zeros(64, np.int8), 0),
    ):
        name = f"{weight.name}.{part}"
        tensor = ir.tensor(data, name=name)
        shape = ir.Shape(data.shape)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        value.metadata_props.update(weight.metadata_props)
        value.metadata_props.update(
            {"bqc.format": "BlockShift(8,64)", "bqc.part": part, "bqc.elements": str(elements)}
        )
        model.graph.register_initializer(value)
        if elements:
            weight.replace_all_uses_with(value)
    weight.metadata_props.clear()
    report = inspect(model)
    assert report["model"]["kind"] == "compiled"
    (row,) = [row for row in report["bit_widths"] if row["format"] == "BlockShift(8,64)"]
    assert (row["role"], row["weights"], row["bytes"]) == ("ffn.intermediate", 2048, 2048 + 64)
    assert row["bits"] == 8.25
    assert report["cost"] == inspect(canonical_bert())["cost"]
    assert report["anatomy"] == inspect(canonical_bert())["anatomy"]


def test_bits_of_activations(tmp_path: Path) -> None:
    tables = {}
    for bits in (8, 6, 4):
        path = tmp_path / f"{bits}.onnx"
        options = {"weights": "binary", "activation_bits": bits, "block": 16}
        bqc.compile(canonical_bert(), "binarybert", path, **options)
        report = inspect(path, batch=1, sequence=8)
        pairs = {row["types"] for row in report["mac_pairs"]}
        # The pooler's input and what float operators of the head read has 8 bits anyway.
        assert {f"int{bits} x Binary(tensor)", f"int{bits} x int{bits}", f"uint8 x int{bits}"} <= pairs
        assert not any(row.startswith(f"int{other}") for row in pairs for other in {4, 6} - {bits})
        tables[bits] = {(row["role"], row["format"]): row["points"] for row in report["activations"]}
    assert tables[4][("attention.query", "BlockShift(4,16,group=16)")] == 2
    assert tables[6][("ffn.gelu", "BlockShift(6,16)")] == 2
    assert inspect(canonical_bert())["activations"] == []


def test_products_by_the_types_multiplied(tmp_path: Path) -> None:
    plain = inspect(canonical_bert())
    assert plain["mac_pairs"] == [{"types": "float x float", "macs": plain["cost"]["macs"]}]
    path = bqc.compile(canonical_bert(), output=tmp_path / "m.onnx", weight_bits=4).paths[0]
    report = inspect(path, batch=1, sequence=8)
    pairs = {row["types"]: row["macs"] for row in report["mac_pairs"]}
    assert sum(pairs.values()) == report["cost"]["macs"]
    assert pairs["int8 x int8"] == pairs["uint8 x int8"] == 2 * 8 * 8 * 32
    # The last layer's is multiplied with first tokens alone.
    assert pairs["int8 x BlockShift(4,64,group=16)"] == (8 + 1) * 32 * 32
    assert set(pairs) >= {"int8 x BlockShift(4,64)"}

"""Labels of weights in files: with the tensors; and in files that have them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

import bqc
from bqc.artifact import write
from bqc.ir import load
from bqc.ir.synthetic import canonical_bert

SIZES: dict[str, Any] = {"layers": 1, "hidden": 48, "heads": 2, "ffn": 64, "vocab": 90}


def labels(model: ir.Model) -> dict[str, dict[str, str]]:
    return {name: dict(value.metadata_props) for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("single_file", [False, True])
def test_they_lie_with_the_tensors_and_come_back(tmp_path: Path, single_file: bool) -> None:
    path = tmp_path / "m.onnx"
    bqc.compile(canonical_bert(**SIZES), output=path, single_file=single_file)
    proto = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in proto.graph.initializer}
    assert not weights & {value.name for value in proto.graph.value_info}
    found = labels(load(path))
    stored = {t.name: {entry.key: entry.value for entry in t.metadata_props} for t in proto.graph.initializer}
    assert stored == found
    assert any(entries.get("bqc.part") == "exponents" for entries in found.values())


def test_a_file_that_is_read_and_written_again_is_the_same(tmp_path: Path) -> None:
    bqc.compile(canonical_bert(**SIZES), output=tmp_path / "m.onnx", single_file=True)
    write(load(tmp_path / "m.onnx"), tmp_path / "n.onnx", single_file=True)
    assert (tmp_path / "n.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_files_with_the_labels_in_value_infos_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    bqc.compile(canonical_bert(**SIZES), output=path, single_file=True)
    new = load(path)
    ir.save(new, tmp_path / "old.onnx")
    old = onnx.load(tmp_path / "old.onnx")
    assert not any(tensor.metadata_props for tensor in old.graph.initializer)
    assert labels(load(tmp_path / "old.onnx")) == labels(new)


def test_documentation_of_a_weight_stays(tmp_path: Path) -> None:
    model = canonical_bert(**SIZES)
    (name, value), *_ = model.graph.initializers.items()
    value.doc_string = "learned"
    write(model, tmp_path / "m.onnx", single_file=True)
    again = load(tmp_path / "m.onnx").graph.initializers[name]
    assert again.doc_string == "learned"
    assert dict(again.metadata_props) == dict(value.metadata_props)

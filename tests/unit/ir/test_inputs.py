"""What inputs take is told by the graph, kept in the compiled file, and enough to verify it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import bqc
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.inputs import (
    ADDED,
    HIDDEN,
    INPUTS_KEY,
    MASK,
    POSITIONS,
    SHOWN,
    TOKEN_IDS,
    TYPES,
    InputSpec,
    InputSpecs,
)
from bqc.ir.synthetic import canonical_bert
from bqc.runtime.inputs import Batch, EncoderInputs
from bqc.verify import verify
from tests.support.exporters_ort import optimized
from tests.support.exporters_written import EXPORTERS as WRITTEN
from tests.support.exports import Export, largest_difference
from tests.support.families import Cell, exported
from tests.support.masks import with_mask

ADDITIVE = [(rank, kind, True) for rank in (2, 3, 4) for kind in ("float", "float16")]
PLAIN = [(rank, kind, False) for rank in (2, 3, 4) for kind in ("int32", "bool", "float", "float16", "uint8")]


def specs(model: ir.Model) -> InputSpecs:
    return InputSpecs.of_json(import_model(model)[0].metadata_props[INPUTS_KEY])


def test_tables_and_masks_tell() -> None:
    assert specs(canonical_bert()) == InputSpecs(
        {
            "input_ids": InputSpec(TOKEN_IDS, 100),
            "token_type_ids": InputSpec(TYPES, 2),
            "attention_mask": InputSpec(MASK),
        },
        longest=64,
    )


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_positions_begin_behind_padding(family: str) -> None:
    """And MPNet's table of relative positions, of 32 rows, limits nothing."""
    model, _ = import_model(exported("torchscript", Cell(family, "bare")))
    found = InputSpecs.of_json(model.metadata_props[INPUTS_KEY])
    assert found.inputs == {"input_ids": InputSpec(TOKEN_IDS, 120), "attention_mask": InputSpec(MASK)}
    assert found.longest == 64  # of 66 rows


@pytest.mark.parametrize(("rank", "kind", "additive"), [*PLAIN, *ADDITIVE])
def test_every_form_of_a_mask(rank: int, kind: str, additive: bool, tmp_path: Path) -> None:
    """Under a name that is not in use."""
    source = tmp_path / "model.onnx"
    model = with_mask(rank, kind, additive, name="mask_of_mine")
    ir.save(model, source)
    compiled = bqc.compile(source, output=tmp_path / "out.onnx").paths[0]
    inputs = EncoderInputs.of(bqc.session(compiled))
    assert inputs.specs["mask_of_mine"].form == (ADDED if additive else SHOWN)
    assert inputs.ranks["mask_of_mine"] == rank
    ids = np.ones((2, 3), np.int64)
    shown = np.array([[1, 1, 0], [1, 0, 0]])
    feeds = inputs.feeds(Batch(ids, shown, ids * 0))
    assert (inputs.mask_of(feeds) == (shown == 1)).all()
    report = verify(compiled, source)
    assert report.ok
    assert report.checks
    np.savez(tmp_path / "inputs.npz", **feeds)
    assert verify(compiled, source, inputs=tmp_path / "inputs.npz").outputs[0].rows in (2, 3)


@pytest.mark.parametrize("exporter", ["torchscript", None])
def test_a_mask_that_is_one_at_padding(exporter: str | None) -> None:
    """Torch adds 0 or a very low number, which is no bias of positions, whatever a mask of ones hides."""
    model = canonical_bert() if exporter is None else ir.load(exported(exporter, Cell("bert", "bare")))
    graph = model.graph
    mask = next(v for v in graph.inputs if v.name == "attention_mask")
    turned = ir.node("Not", [mask])
    cast = ir.node("Cast", turned.outputs, attributes={"to": int(ir.DataType.INT64)})
    mask.replace_all_uses_with(cast.outputs[0])
    turned.replace_input_with(0, mask)
    mask.type = ir.TensorType(ir.DataType.BOOL)
    graph.insert_before(graph[0], [turned, cast])
    model = ir.from_proto(ir.to_proto(model))
    imported, summary = import_model(ir.from_proto(ir.to_proto(model)))
    assert summary.encoder.attentions == 2
    found = InputSpecs.of_json(imported.metadata_props[INPUTS_KEY])
    assert found.inputs["attention_mask"] == InputSpec(MASK, form=HIDDEN)
    assert largest_difference(model, imported) < 1e-5


def test_a_mask_that_is_multiplied_is_not_one_that_is_added(tmp_path: Path) -> None:
    """Very low numbers in the place of ones hide keys there, too."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported("torchscript", Cell("bert", "bare")).read_bytes())
    imported, _ = import_model(WRITTEN["mask-inverted-float"](path))
    found = InputSpecs.of_json(imported.metadata_props[INPUTS_KEY])
    assert found.inputs["padding_mask"].form == HIDDEN


def test_explicit_positions_have_rows() -> None:
    model = canonical_bert(token_types=False)
    places = ir.Value(name="place", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["b", "s"]))
    model.graph.inputs.append(places)
    lookup = next(n for n in model.graph if n.op_type == "Gather" and "position" in (n.inputs[0].name or ""))
    lookup.replace_input_with(1, places)
    places.name = "position_ids"
    found = specs(model)
    assert found.inputs["position_ids"] == InputSpec(POSITIONS, 64)
    assert found.longest == 64


def test_fused_originals_are_verified(tmp_path: Path) -> None:
    """Their lookups are inside operators of ONNX Runtime; the compiled file knows."""
    source = Export("torchscript", 14).path
    path = tmp_path / "model.onnx"
    path.write_bytes(source.read_bytes())
    path = optimized(path)
    compiled = bqc.compile(path, output=tmp_path / "out.onnx", block=16).paths[0]
    assert verify(compiled, path).ok
    assert verify(path, path).outputs[0].max_abs == 0  # and of two that bqc did not make, one is imported


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"inputs": 3, "longest": 1}', '{"inputs": {"x": {"rows": 1}}, "longest": 1}'),
        '{"inputs": {"x": {"role": "mask", "form": "upside down"}}, "longest": 1}',
        '{"inputs": {"x": {"role": "pixels"}}, "longest": 1}',
        '{"inputs": {"x": {"role": "token ids", "rows": -1}}, "longest": 1}',
    ],
)
def test_damaged_metadata(text: str) -> None:
    with pytest.raises(BqcError, match=r"metadata bqc\.inputs is not readable"):
        InputSpecs.of_json(text)


def test_two_encoders_in_one_graph(tmp_path: Path) -> None:
    """Either has its ids and its mask; what is made up for one is made up for both, and files may differ in length."""
    one, other = (ir.to_proto(canonical_bert(layers=1, token_types=False)) for _ in range(2))
    both = onnx.compose.merge_models(
        onnx.compose.add_prefix(one, "left/"), onnx.compose.add_prefix(other, "right/"), io_map=[]
    )
    path = tmp_path / "two.onnx"
    onnx.save(both, path)
    compiled = bqc.compile(path, output=tmp_path / "out.onnx").paths[0]
    inputs = EncoderInputs.of(bqc.session(compiled))
    assert {name: spec.role for name, spec in inputs.specs.items()} == {
        "left/input_ids": TOKEN_IDS,
        "left/attention_mask": MASK,
        "right/input_ids": TOKEN_IDS,
        "right/attention_mask": MASK,
    }
    assert verify(compiled, path).ok
    sizes = {"left": (2, 5), "right": (2, 3)}
    arrays = {name: np.ones(sizes[name.split("/")[0]], np.int64) for name in inputs.specs}
    np.savez(tmp_path / "inputs.npz", **arrays)
    assert verify(compiled, path, inputs=tmp_path / "inputs.npz").ok

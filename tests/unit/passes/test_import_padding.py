"""Encoders that find padding in their ids themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.anatomy import nodes_of
from bqc.ir.build import Writer
from bqc.ir.synthetic import canonical_bert
from tests.support.exports import session

BOOL = ir.DataType.BOOL


def without_mask(form: str, pad: int = 0) -> ir.Model:
    """The mask is `ids != pad`, written in that form."""
    model = canonical_bert(token_types=False)
    graph = model.graph
    ids, mask = graph.inputs
    cast = next(n for n in nodes_of(model, role="attention.mask") if n.op_type == "Cast")
    w = Writer(graph)
    number = w.const("pad", np.int64(pad))
    if form == "Equal":
        kept = w.op("Not", w.op("Equal", number, ids, dtype=BOOL), dtype=BOOL)
    elif form == "Greater":
        kept = w.op("Greater", ids, number, dtype=BOOL)
    elif form == "Cast":
        kept = w.op("Cast", ids, dtype=BOOL, to=int(BOOL))
    else:
        kept = w.op("Min", ids, w.const("one", np.int64(1)), dtype=ir.DataType.INT64)
    cast.replace_input_with(0, kept)
    graph.insert_before(cast, w.nodes)
    graph.inputs.remove(mask)
    for item in (*graph, *graph.initializers.values()):
        item.metadata_props.clear()
    return ir.from_proto(ir.to_proto(model))


@pytest.mark.parametrize(("form", "pad"), [("Equal", 0), ("Equal", 3), ("Greater", 0), ("Cast", 0)])
def test_the_mask_is_recognised(form: str, pad: int, tmp_path: Path) -> None:
    source = without_mask(form, pad)
    model, summary = import_model(without_mask(form, pad))
    assert summary.encoder.mask
    assert not summary.encoder.float_parts
    ids = np.array([[pad, pad, 7, 8, 9], [5, 6, 7, 8, pad]])
    wanted, found = (session(m).run(None, {"input_ids": ids})[0] for m in (source, model))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    path = bqc.compile(without_mask(form, pad), output=tmp_path / "out.onnx").paths[0]
    compiled = bqc.session(path).run(None, {"input_ids": ids})[0]
    np.testing.assert_allclose(compiled, wanted, atol=0.05)


@pytest.mark.parametrize(("form", "pad"), [("Greater", 4), ("Min", 0)])
def test_other_functions_of_ids_are_refused(form: str, pad: int) -> None:
    with pytest.raises(BqcError, match="the scores depend on the ids"):
        import_model(without_mask(form, pad))

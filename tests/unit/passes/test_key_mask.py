"""Masks of one row for all texts, as ONNX lets them be added: operators that take a row a text get one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.formats import Half
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import key_of
from bqc.passes._weights import weight_uses
from bqc.plan import Plan
from bqc.runtime.session import session

TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}
WAYS: list[dict[str, Any]] = [
    {"scheme": "bbct"},
    {"recipe": Plan("bbct", {key_of(node): Half() for node, _, _ in weight_uses(canonical_bert(**TINY))})},
]


def compiled(path: Path, rows: int | str, way: dict[str, Any], **options: Any) -> Any:
    model = canonical_bert(**TINY)
    mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
    mask.shape = ir.Shape([rows, "sequence"])
    return session(bqc.compile(model, output=path, **way, **options).paths[0], strict=True)


@pytest.mark.parametrize("unpad", [False, True], ids=["padded", "unpadded"])
@pytest.mark.parametrize("rows", [1, "one"])
@pytest.mark.parametrize("way", WAYS, ids=["codes", "float"])
def test_one_row_is_for_every_text(way: dict[str, Any], rows: int | str, unpad: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 100, (3, 9)), np.ones((1, 9), np.int64)
    mask[0, 6:] = 0
    texts = {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
    whole = compiled(tmp_path / "b.onnx", "batch", way).run(
        None, {**texts, "attention_mask": np.repeat(mask, 3, axis=0)}
    )
    (logits,) = compiled(tmp_path / "a.onnx", rows, way, unpad=unpad).run(
        None, {**texts, "attention_mask": mask}
    )
    assert logits.shape == (3, 2)
    np.testing.assert_array_equal(logits, whole[0])

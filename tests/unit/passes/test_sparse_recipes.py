"""Models compiled by recipes with N:M-sparse weights: everything folds, and the bits need no library."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.cli import main
from bqc.errors import BqcError
from bqc.formats import BlockShift, Sparse
from bqc.formats.sparse import PATTERNS
from bqc.formats.stored import weight_format
from bqc.inspect import inspect
from bqc.ir import load
from bqc.ir.synthetic import canonical_bert
from bqc.passes.plan_bbct import PlanBbct
from bqc.plan import Plan

TINY = {"layers": 2, "hidden": 52, "heads": 2, "ffn": 72}


def recipe_of(model: ir.Model, path: Path, linear: Sparse, **more: str) -> Path:
    """A recipe with this format for every linear, in the groups that scheme bbct has; and some formats changed."""
    planned = model.clone()
    PlanBbct()(planned)
    plan = Plan.of(planned)
    for key, fmt in plan.weights.items():
        if not key.startswith("embedding:"):
            assert isinstance(fmt, BlockShift)
            plan.weights[key] = replace(linear, group=fmt.group)
    for key, other in more.items():
        layer, role = key.split("__")
        plan.weights[f"{layer}:{role.replace('_', '.')}"] = weight_format(other)
    path.write_text(plan.to_yaml())
    return path


def feeds(batch: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mask = np.ones((batch, length), np.int64)
    mask[0, length // 2 + 1 :] = 0
    ids = rng.integers(0, 100, (batch, length))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("kept", "of"), PATTERNS)
def test_everything_folds_and_keeps_its_bits(kept: int, of: int, bits: int, tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    recipe = recipe_of(model, tmp_path / "r.yaml", Sparse(kept, of, bits))
    result = bqc.compile(model, output=tmp_path / "m.onnx", recipe=recipe, require_full=True)
    ops = Counter(result.operators)
    assert not [op for op in ops if "Dequantize" in op]
    assert ops["SparseLinearAddNorm"] == 4
    assert ops["SparseLinearGelu"] == ops["SparseLinearQuantizeValues"] == 2
    assert ops["SparseLinearQuantize"] == 4
    assert ops["SparseLinear"] == 2  # pooler; head
    assert not [op for op in ops if op.startswith("BlockLinear")]
    fast = bqc.session(result.paths[0], strict=True, threads=2)
    plain = bqc.session(result.paths[0], library=False)
    for batch, length in [(3, 9), (1, 1), (2, 31)]:
        for a, b in zip(
            fast.run(None, feeds(batch, length)), plain.run(None, feeds(batch, length)), strict=True
        ):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, Path]:
    """A float model, and one compiled from it with another sparsity for a weight, and one in signs."""
    model = canonical_bert(**TINY)
    ir.save(model, tmp_path / "float.onnx")
    changed = {"1__ffn_output": "Sparse(1,4,4)", "0__ffn_intermediate": "Ternary(row)"}
    recipe = recipe_of(model, tmp_path / "r.yaml", Sparse(2, 4), **changed)
    bqc.compile(tmp_path / "float.onnx", output=tmp_path / "m.onnx", recipe=recipe)
    return tmp_path / "float.onnx", tmp_path / "m.onnx"


def test_inspect_and_diff_name_the_format(
    mixed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(mixed[1])]) == 0
    shown = capsys.readouterr().out
    for part in ("Sparse(2,4,8,group=26)", "int8 x Sparse(1,4,4)", "int8 x Ternary(row)"):
        assert part in shown
    assert main(["diff", *map(str, mixed)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "float -> 2:4 sparse 8-bit codes (a scale a row), relative error" in text
    assert "float -> 1:4 sparse 4-bit codes (a scale a row), relative error" in text
    assert "the same within the format's error" in " ".join(text.split())


def test_verify_has_no_bounds_for_pruned_weights(mixed: tuple[Path, Path]) -> None:
    assert main(["verify", str(mixed[1]), "--against", str(mixed[0])]) == 0


def test_stored_bytes_are_those_of_the_format(mixed: tuple[Path, Path]) -> None:
    model = load(mixed[1])
    plan = Plan.of(model)
    sizes: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.metadata_props.get("bqc.format", "").startswith("Sparse") and value.const_value is not None:
            label = f"{value.metadata_props['bqc.layer']}:{value.metadata_props['bqc.role']}"
            sizes[label] += value.const_value.nbytes
    shapes = {"0:attention.query": (52, 52), "0:attention.output": (52, 52), "1:ffn.output": (52, 72)}
    for key, shape in shapes.items():
        assert plan.weights[key].stored_bytes(*shape, table=False) == sizes[key]


def test_a_table_is_refused(tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    changed = {"embedding__embedding_word": "Sparse(2,4,8)"}
    recipe = recipe_of(model, tmp_path / "r.yaml", Sparse(2, 4), **changed)
    with pytest.raises(BqcError, match=r"embedding.word is a lookup table, which Sparse\(2,4,8\) cannot be"):
        bqc.compile(model, output=tmp_path / "m.onnx", recipe=recipe)
    assert not (tmp_path / "m.onnx").exists()


def test_groups_that_differ_from_the_activations_stay_float(tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    recipe = recipe_of(model, tmp_path / "r.yaml", Sparse(2, 4), **{"0__attention_output": "Sparse(2,4,8)"})
    result = bqc.compile(model, output=tmp_path / "m.onnx", recipe=recipe)
    assert result.operators["SparseDequantizeTiles"] == 1
    why = "quantised, and multiplied in float: Sparse(2,4,8) has group 0, its input 26: write Sparse(2,4,8,group=26)"
    assert dict(result.summary)["float"] == f"0:attention.output: {why}"
    assert [(part.part, part.reason) for part in result.float_parts] == [("0:attention.output", why)]
    assert [part["reason"] for part in inspect(result.paths[0])["float_parts"]] == [why]


def test_a_sparse_model_loses_its_rounding_only(tmp_path: Path) -> None:
    """Weights that are 2:4 already, as training leaves them, keep their mask: 8 bits are near the float model."""
    model = canonical_bert(**TINY)
    planned = recipe_of(model, tmp_path / "r.yaml", Sparse(2, 4))
    for key, fmt in Plan.read(planned).weights.items():
        for value in model.graph.initializers.values():
            label = f"{value.metadata_props.get('bqc.layer')}:{value.metadata_props.get('bqc.role')}"
            if label == key and isinstance(fmt, Sparse) and len(value.shape or ()) == 2:
                data = value.const_value.numpy().T.copy()
                data[~fmt.mask(data)] = 0
                value.const_value = ir.Tensor(np.ascontiguousarray(data.T), name=value.name)
    ir.save(model, tmp_path / "float.onnx")
    result = bqc.compile(tmp_path / "float.onnx", output=tmp_path / "m.onnx", recipe=planned)
    want = bqc.session(tmp_path / "float.onnx").run(None, feeds(4, 12))[0]
    got = bqc.session(result.paths[0]).run(None, feeds(4, 12))[0]
    cosine = (want * got).sum() / np.linalg.norm(want) / np.linalg.norm(got)
    assert cosine > 0.99

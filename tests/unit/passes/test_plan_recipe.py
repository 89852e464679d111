"""Recipes that a model cannot follow: what is said, and that no file is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import bqc
from bqc.cli import main
from bqc.errors import BqcError
from bqc.ir.synthetic import canonical_bert
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.plan_binarybert import PlanBinarybert
from bqc.passes.plan_recipe import PlanRecipe
from bqc.plan import Plan

TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}


def recipe(model: ir.Model, path: Path, section: str, **formats: str) -> Path:
    """The recipe of scheme bbct with other formats in a section, by ``layer__role_part``."""
    planned = model.clone()
    PlanBbct()(planned)
    lines = Plan.of(planned).to_yaml().splitlines()
    for key, fmt in formats.items():
        layer, name = key.split("__")
        label = f"  {layer}:{name.replace('_', '.')}: "
        start = lines.index(f"{section}:") + 1
        end = next(i for i in range(start, len(lines)) if not lines[i].startswith("  "))
        at = next((i for i in range(start, end) if lines[i].startswith(label)), None)
        lines[start if at is None else at : start if at is None else at + 1] = [label + fmt]
    path.write_text("\n".join(lines))
    return path


def feeds() -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(0, 100, (2, 9))
    return {"input_ids": ids, "attention_mask": np.ones((2, 9), np.int64), "token_type_ids": ids % 2}


@pytest.mark.parametrize(
    ("section", "key", "fmt", "message"),
    [
        (
            "activations",
            "0__attention_value",
            fmt,
            f"{fmt} has group {group}, and values are quantised inside heads of 24: write {own}",
        )
        for fmt, group, own in [
            ("BlockShift(8,64)", 0, "BlockShift(8,64,group=24)"),
            ("BlockShift(8,row)", 0, "BlockShift(8,row,group=24)"),
            ("BlockShift(8,tensor)", 0, "BlockShift(8,tensor,group=24)"),
            ("BlockShift(6,64,group=48)", 48, "BlockShift(6,64,group=24)"),
        ]
    ]
    + [
        (
            "activations",
            "1__attention_softmax",
            fmt,
            f"activations: 1:attention.softmax: {fmt}: softmax has unsigned codes of 8 bits and one sum a row, "
            f"whatever is asked for: write {own}",
        )
        for fmt, own in [
            ("BlockShift(4,64)", "BlockShift(8,64)"),
            ("BlockShift(6,row)", "BlockShift(8,row)"),
            ("BlockShift(8,64,group=24)", "BlockShift(8,64)"),
        ]
    ]
    + [
        ("activations", key, "BlockShift(8,64)", f"the model has no point '{label}'")
        for key, label in [
            ("0__ffn_intermediate", "0:ffn.intermediate"),
            ("0__ffn_output", "0:ffn.output"),
            ("0__attention_output", "0:attention.output"),
            ("0__attention_scores", "0:attention.scores"),
            ("embedding__embedding_word", "embedding:embedding.word"),
            ("head__head", "head:head"),
        ]
    ]
    + [
        (
            section,
            key,
            fmt,
            f"{section}: {label}: {fmt}: a row of {length} is not a whole number of groups of 7",
        )
        for section, key, label, fmt, length in [
            ("activations", "0__ffn_gelu", "0:ffn.gelu", "BlockShift(8,64,group=7)", 72),
            ("activations", "0__attention_context", "0:attention.context", "BlockShift(8,64,group=7)", 48),
            ("weights", "0__ffn_output", "0:ffn.output", "BlockShift(8,64,group=7)", 72),
            ("weights", "0__attention_output", "0:attention.output", "Sparse(2,4,8,group=7)", 48),
            ("weights", "0__attention_output", "0:attention.output", "Binary(row,group=7)", 48),
            ("weights", "0__attention_output", "0:attention.output", "Ternary(row,group=7)", 48),
        ]
    ]
    + [
        (section, key, fmt, f": {section}: {message}")
        for section, key, fmt, message in [
            (
                "activations",
                "0-1__attention_value",
                "BlockShift(8,64)",
                "0-1:attention.value: BlockShift(8,64) has group",
            ),
            (
                "activations",
                "0-1__attention_softmax",
                "BlockShift(4,64)",
                "0-1:attention.softmax: BlockShift(4,64): softmax",
            ),
            (
                "activations",
                "0-1__ffn_gelu",
                "BlockShift(8,64,group=7)",
                "0-1:ffn.gelu: BlockShift(8,64,group=7): a row",
            ),
            (
                "weights",
                "0-1__ffn_output",
                "BlockShift(8,64,group=7)",
                "0-1:ffn.output: BlockShift(8,64,group=7): a row",
            ),
            (
                "weights",
                "0-1__embedding_word",
                "Xnor(row)",
                "0-1:embedding.word: Xnor(row) is a format of linears",
            ),
        ]
    ]
    + [
        (
            "weights",
            "2-5__ffn_intermediate",
            "BlockShift(4,64)",
            "the model has no weight '2:ffn.intermediate', of '2-5:ffn.intermediate'; nearest: ",
        )
    ],
)
def test_what_a_model_cannot_follow_is_refused(
    section: str, key: str, fmt: str, message: str, tmp_path: Path
) -> None:
    model = canonical_bert(**TINY)
    path = recipe(model, tmp_path / "r.yaml", section, **{key: fmt})
    with pytest.raises(BqcError) as caught:
        bqc.compile(model, output=tmp_path / "m.onnx", recipe=path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "0:ffn.output: 'float: excluded'",
            r"0:ffn.output is kept float, and weights gives it BlockShift\(8,64\): leave one out",
        ),
        ("0:ffn.outptu: 'float: excluded'", "the model has no weight '0:ffn.outptu'; nearest: 0:ffn.output"),
    ],
)
def test_what_is_kept_is_a_weight_without_a_format(line: str, message: str, tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    path = recipe(model, tmp_path / "r.yaml", "weights")
    path.write_text(path.read_text().replace("kept: {}", f"kept:\n  {line}"))
    with pytest.raises(BqcError, match=message):
        bqc.compile(model, output=tmp_path / "m.onnx", recipe=path)


def test_what_schemes_plan_is_a_recipe() -> None:
    """Softmax has its 8 bits there too."""
    for plan_pass in (PlanBbct(activation_bits=4, block=16), PlanBinarybert(activation_bits=4)):
        model = canonical_bert(**TINY)
        plan_pass(model)
        plan = Plan.of(model)
        assert plan.activations["0:attention.softmax"].bits == 8
        assert plan.activations["0:attention.query"].bits == 4
        PlanRecipe(plan.to_yaml())(model)
        assert Plan.of(model) == plan


@pytest.mark.parametrize("fmt", ["BlockShift(8,16,group=24)", "BlockShift(8,row,group=24)"])
def test_values_in_other_blocks_run(fmt: str, tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    path = recipe(model, tmp_path / "r.yaml", "activations", **{"0__attention_value": fmt})
    result = bqc.compile(model, output=tmp_path / "m.onnx", recipe=path)
    assert result.operators["BlockAttention"] == (2 if "row" in fmt else 1)
    fast = bqc.session(result.paths[0], strict=True).run(None, feeds())
    plain = bqc.session(result.paths[0], library=False).run(None, feeds())
    for a, b in zip(fast, plain, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    ("key", "fmt", "why"),
    [
        (
            "0__attention_output",
            "BlockShift(8,64)",
            "group 0, its input 24",
        ),
        ("0__attention_output", "Binary(row)", "group 0, its input 24"),
        ("0__attention_output", "Sparse(1,4,4,group=12)", "group 12, its input 24"),
        ("1__ffn_output", "BlockShift(3,row)", "blocks of 72, its input of 64"),
        ("1__ffn_output", "Ternary(row,group=24)", "group 24, its input 0"),
    ],
)
def test_a_weight_that_does_not_share_its_inputs_blocks_is_told_the_format(
    key: str, fmt: str, why: str, tmp_path: Path
) -> None:
    model = canonical_bert(**TINY)
    path = recipe(model, tmp_path / "r.yaml", "weights", **{key: fmt})
    result = bqc.compile(model, output=tmp_path / "m.onnx", recipe=path)
    (row,) = [text for name, text in result.summary if name == "float"]
    assert f"multiplied in float: {fmt} has {why}: write " in row
    own = row.rpartition("write ")[2]
    model = canonical_bert(**TINY)
    path = recipe(model, tmp_path / "r.yaml", "weights", **{key: own})
    assert bqc.compile(model, output=tmp_path / "m.onnx", recipe=path, require_full=True).paths
    assert main(["inspect", str(tmp_path / "m.onnx"), "-q"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kept: [a]", "r.yaml: kept: must map layer:role to a reason"),
        ("kept: 3", "r.yaml: kept: must map layer:role to a reason"),
    ],
)
def test_kept_is_a_mapping(text: str, message: str) -> None:
    with pytest.raises(BqcError, match=message):
        Plan.from_yaml(f"bqc_recipe: 1\n{text}\n", "r.yaml")

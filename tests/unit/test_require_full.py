"""`require_full`: what stays float is an error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

import bqc
from bqc.errors import BqcError
from bqc.formats import BlockShift, Half
from bqc.inspect import inspect
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import key_of
from bqc.passes._weights import weight_uses
from bqc.plan import Plan

TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}
QUERY, KEY, VALUE = (f"attention.{name}" for name in ("query", "key", "value"))
SOFTMAX, CONTEXT = "attention.softmax", "attention.context"
HEAD = "BlockShift(8,64,group=24)"
CODES = "BlockShift(8,64)"
LACKS = "multiplied in float: the plan has no point "


def halves(points: dict[str, str]) -> Plan:
    """A recipe with all weights in fp16 and these points, by role, in both layers."""
    uses = weight_uses(canonical_bert(**TINY))
    plan = Plan("bbct", {key_of(node): Half() for node, _, _ in uses})
    plan.activations = {f"{i}:{role}": BlockShift.parse(fmt) for i in "01" for role, fmt in points.items()}
    return plan


def test_a_whole_encoder_passes(tmp_path: Path) -> None:
    assert bqc.compile(canonical_bert(), output=tmp_path / "full.onnx", require_full=True).paths


def test_what_is_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(BqcError, match=r"--require-full asks: .*ffn"):
        bqc.compile(
            canonical_bert(),
            output=tmp_path / "part.onnx",
            require_full=True,
            exclude=("0:ffn.intermediate",),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("points", "scores", "context"),
    [
        ({}, LACKS + f"{QUERY} and no point {KEY}", LACKS + f"{SOFTMAX} and no point {VALUE}"),
        ({QUERY: HEAD, SOFTMAX: CODES}, LACKS + KEY, LACKS + VALUE),
        ({QUERY: HEAD, KEY: HEAD, VALUE: HEAD}, None, LACKS + SOFTMAX),
        ({SOFTMAX: CODES, VALUE: HEAD}, LACKS + f"{QUERY} and no point {KEY}", None),
        (
            {QUERY: HEAD, KEY: "BlockShift(8,16,group=24)", SOFTMAX: CODES, VALUE: HEAD},
            f"multiplied in float: {QUERY} is {HEAD} and {KEY} BlockShift(8,16,group=24): write {HEAD} for both",
            None,
        ),
    ],
)
def test_attention_between_linears_in_fp16_is_named(
    points: dict[str, str], scores: str | None, context: str | None, tmp_path: Path
) -> None:
    """By compile, in a dry run too, by inspect, and by who asks for all of the model."""
    expected = {"attention.scores": scores, "attention.context": context}
    reasons = {role: why for role, why in expected.items() if why is not None}
    plan = halves(points)
    result = bqc.compile(canonical_bert(**TINY), output=tmp_path / "m.onnx", recipe=plan)
    rows = [text for name, text in result.summary if name == "float"]
    assert rows == [f"0:{role}, 1:{role}: {why}" for role, why in reasons.items()]
    found = [{"part": part.part, "reason": part.reason} for part in result.float_parts]
    assert found == [{"part": f"{i}:{role}", "reason": why} for i in "01" for role, why in reasons.items()]
    assert inspect(result.paths[0])["float_parts"] == found
    with pytest.raises(BqcError) as caught:
        bqc.compile(canonical_bert(**TINY), output=tmp_path / "full.onnx", recipe=plan, require_full=True)
    assert str(caught.value).endswith(f"as --require-full asks: {'; '.join(rows)}")
    dry = bqc.compile(canonical_bert(**TINY), output=tmp_path / "dry.onnx", recipe=plan, dry_run=True)
    lacking = [row for row in rows if LACKS in row]  # what does not fold is known only of what was folded
    assert [text for name, text in dry.summary if name == "float"] == lacking


@pytest.mark.parametrize("context", [{}, {CONTEXT: HEAD}], ids=["float-context", "context"])
def test_attention_on_codes_between_linears_in_fp16_is_whole(context: dict[str, str], tmp_path: Path) -> None:
    plan = halves({QUERY: HEAD, KEY: HEAD, SOFTMAX: CODES, VALUE: HEAD, **context})
    path = tmp_path / "m.onnx"
    result = bqc.compile(canonical_bert(**TINY), output=path, recipe=plan, require_full=True)
    assert sum(result.operators.get(f"HalfLinear{form}", 0) for form in ("", "Gelu", "AddNorm")) == 14
    assert result.operators["BlockAttention" if context else "BlockContext"] == 2
    assert not result.float_parts
    assert not inspect(path)["float_parts"]

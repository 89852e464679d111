"""Counting rewrites: every change is one, the first N can be had alone, and each is named."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bqc.ir.counting import RewriteLog, counting, may_rewrite
from bqc.ir.structure import structural_hash
from bqc.ir.synthetic import canonical_bert
from bqc.opt import scheme_pipeline
from bqc.passes import pass_name
from bqc.pipeline import Changes, parse, run, watching
from bqc.pipeline.invariants import violations
from bqc.pipeline.trial import evaluate, make_feeds

TINY = {"layers": 2, "hidden": 16, "heads": 2, "ffn": 24}
PIPELINE = scheme_pipeline("bbct")


def lowered(limit: int | None = None) -> tuple[ir.Model, RewriteLog, Changes]:
    model, changes = canonical_bert(**TINY), Changes()
    with watching([changes], limit=limit) as log:
        run(model, PIPELINE)
    return model, log, changes


def test_what_changes_the_model_is_counted() -> None:
    _, log, changes = lowered()
    steps = [row.step for row in changes.rows if row.step is not None]
    assert all(bool(step.rewrites) == step.modified for step in steps if not step.within), steps
    inner = [step for step in steps if step.within == ("import-canonicalize",)]
    assert len(inner) > 25
    (whole,) = (step for step in steps if step.name == "import-canonicalize")
    assert whole.rewrites == sum(step.rewrites for step in inner) > 0
    assert len(log.rewrites) == sum(step.rewrites for step in steps if not step.within)
    assert [one.index for one in log.rewrites] == list(range(1, len(log.rewrites) + 1))


def test_each_rewrite_is_named() -> None:
    _, log, _ = lowered()
    gelus = [one for one in log.rewrites if one.by == "fold-gelu"]
    assert [one.where for one in gelus] == ["0:ffn.gelu", "1:ffn.gelu"]
    assert gelus[0].node.startswith("BlockQuantize ")
    (plan,) = (one for one in log.rewrites if one.by == "plan-bbct")
    assert (plan.node, plan.where) == ("", "")
    assert str(plan) == f"rewrite {plan.index}, plan-bbct at the whole graph"
    assert {one.by for one in log.rewrites} >= {"import-attention", "quantize-weights", "pack-weights"}


TOTAL = len(lowered()[1].rewrites)


@pytest.mark.parametrize("limit", [*range(0, TOTAL, 7), TOTAL])
def test_the_first_rewrites_can_be_had_alone(limit: int) -> None:
    model, log, _ = lowered(limit)
    assert log.rewrites == lowered()[1].rewrites[:limit]
    assert violations(model) == {}
    original = canonical_bert(**TINY)
    feeds = make_feeds(original)
    got, want = evaluate(model, feeds)["logits"], evaluate(original, feeds)["logits"]
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_no_rewrites_leave_the_model_alone() -> None:
    model, log, changes = lowered(0)
    assert structural_hash(model, values=True) == structural_hash(canonical_bert(**TINY), values=True)
    assert (log.rewrites, changes.rows) == ([], [])


def test_a_pass_alone_counts_from_one() -> None:
    model = canonical_bert(**TINY)
    run(model, PIPELINE[:-1][: [pass_name(one) for one in PIPELINE].index("fold-gelu")])
    with watching(limit=1) as log:
        (step,) = run(model, parse("fold-gelu"))
    assert (step.rewrites, [one.where for one in log.rewrites]) == (1, ["0:ffn.gelu"])
    assert sum(node.op_type == "BlockLinearGelu" for node in model.graph) == 1


def test_outside_of_a_count_everything_is_allowed() -> None:
    node = next(iter(canonical_bert(**TINY).graph))
    assert may_rewrite(node)
    with counting(RewriteLog(limit=1)) as log:
        assert [may_rewrite(node), may_rewrite(node)] == [True, False]
    assert len(log.rewrites) == 1
    assert may_rewrite(node)

"""The textual form of pipelines: round trips, and errors with columns."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqc.errors import BqcError
from bqc.passes import names, pass_class, pass_name
from bqc.passes.annotate_sensitivity import AnnotateSensitivity
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.plan_recipe import PlanRecipe
from bqc.pipeline import parse, spell
from bqc.pipeline.describing import describe


def test_options_take_the_types_of_their_fields() -> None:
    text = 'plan-bbct{ weight_bits=4 block=row max_error=0.01 exclude=0:*,"a b" } , annotate-sensitivity{bits=8,4}'
    assert parse(text) == [
        PlanBbct(weight_bits=4, block="row", max_error=0.01, exclude=("0:*", "a b")),
        AnnotateSensitivity(bits=(8, 4)),
    ]
    assert parse("plan-bbct{block=128 max_error=none}") == [PlanBbct(block=128)]


@pytest.mark.parametrize("name", names())
def test_every_pass_has_a_name_that_finds_it(name: str) -> None:
    kind = pass_class(name)
    required = {f.name: "x" for f in fields(kind) if f.name == "text"}
    assert pass_name(kind(**required)) == name
    assert (kind.__doc__ or "").strip()


@pytest.mark.parametrize("name", names())
def test_every_option_is_described(name: str) -> None:
    assert [option.name for option in describe(name).options if not option.doc] == []


@given(
    bits=st.sampled_from([8, 6, 4, 3]),
    block=st.sampled_from([16, 64, "row"]),
    error=st.none() | st.floats(1e-6, 1.0),
    patterns=st.lists(st.text(min_size=1, max_size=8), max_size=3),
    text=st.text(max_size=20),
)
def test_what_is_spelled_parses_to_the_same(
    bits: int, block: int | str, error: float | None, patterns: list[str], text: str
) -> None:
    passes = [
        PlanBbct(weight_bits=bits, block=block, max_error=error, include=tuple(patterns)),
        PlanRecipe(text),
    ]
    assert parse(spell(passes)) == passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold-gelu,fold-glue", r"column 11: no pass 'fold-glue'; did you mean fold-gelu\?"),
        ("fold-gelu fold-head", r"column 10: expected ','"),
        (
            "plan-bbct{weight_bit=4}",
            r"column 11: plan-bbct has no option 'weight_bit'; did you mean weight_bits",
        ),
        ("plan-bbct{weight_bits=x}", r"column 23: plan-bbct: weight_bits: 'x' is no whole number"),
        ("plan-bbct{weight_bits=4,8}", r"column 23: .*takes one value, not 2"),
        ("plan-bbct{weight_bits}", r"column 22: expected '='"),
        ("plan-bbct{weight_bits=4", r"column 24: expected an option of plan-bbct or '}'"),
        ("", r"column 1: expected the name of a pass"),
        ('plan-bbct{include="}', r"unexpected '\"'|expected a value"),
        ("plan-recipe", r"column 1: plan-recipe needs text$"),
        ("fold-gelu,plan-bbct{block=16  block=32}", r"column 31: plan-bbct: block is given twice"),
        (r'plan-bbct{include="a\x"}', r"column 21: invalid \\escape"),
        ("plan-bbct{block=17}", r"column 1: plan-bbct: BlockShift has no block 17"),
        ("plan-bbct{activation_bits=3}", r"column 1: plan-bbct: activations have no 3 bits"),
        ("plan-bbct{weight_bits=5}", r"column 1: plan-bbct: BlockShift has no 5-bit codes"),
        ("plan-bbct{fallback=pat}", r"column 1: plan-bbct: block fallback 'pat' is unknown"),
        ("annotate-sensitivity{bits=8,9}", r"column 1: annotate-sensitivity: BlockShift has no 9-bit"),
    ],
)
def test_errors_name_the_column(text: str, message: str) -> None:
    with pytest.raises(BqcError, match=message):
        parse(text)

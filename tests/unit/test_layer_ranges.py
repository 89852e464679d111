"""Ranges of layers in the keys of recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bqc
from bqc.errors import BqcError
from bqc.ir.synthetic import canonical_bert
from bqc.layer_ranges import MOST_LAYERS, expanded, grouped, written
from bqc.plan import Plan

ROLES = ("attention.query", "ffn.output", "ffn.gelu")
LAYERS = st.dictionaries(st.sampled_from(ROLES), st.sampled_from("ab"), min_size=1)


def test_layers_that_are_alike_share_their_lines() -> None:
    layer = {"attention.query": "a", "ffn.output": "b"}
    entries = {
        "embedding:word": "a",
        **{f"{i}:{r}": v for i in range(12) for r, v in layer.items()},
        "head:pooler": "a",
    }
    assert list(grouped(entries).items()) == [
        ("embedding:word", "a"),
        ("0-11:attention.query", "a"),
        ("0-11:ffn.output", "b"),
        ("head:pooler", "a"),
    ]


@given(st.lists(LAYERS, max_size=6), st.sets(st.integers(0, 5)), st.booleans())
def test_expanding_gives_the_entries_back_in_their_order(
    layers: list[dict[str, str]], missing: set[int], head: bool
) -> None:
    entries = {f"{i}:{r}": v for i, roles in enumerate(layers) if i not in missing for r, v in roles.items()}
    entries = {"embedding:word": "a", "free": "b", **entries, **({"head:head": "a"} if head else {})}
    assert list(expanded(grouped(entries), "here").items()) == list(entries.items())


def test_a_range_stands_for_each_of_its_layers() -> None:
    found = expanded(
        {"1-2:ffn.output": "a", "1-2:ffn.gelu": "b", "0-0:ffn.output": "c", "03-4:x": "d"}, "here"
    )
    assert list(found) == [
        "1:ffn.output",
        "1:ffn.gelu",
        "2:ffn.output",
        "2:ffn.gelu",
        "0:ffn.output",
        "3:x",
        "4:x",
    ]


def test_a_layers_own_entry_goes_before_that_of_a_range() -> None:
    assert expanded({"1:x": "own", "0-2:x": "all", "0-2:y": "b", "2:x": "last"}, "here") == {
        "0:x": "all",
        "1:x": "own",
        "2:x": "last",
        "0:y": "b",
        "1:y": "b",
        "2:y": "b",
    }


def test_what_a_key_was_written_as() -> None:
    entries = ["1:x", "00-2:x", "0-2:y"]
    keys = {"0:x": "00-2:x", "1:x": "1:x", "2:y": "0-2:y", "3:x": "3:x", "free": "free"}
    assert {key: written(key, entries) for key in keys} == keys


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("3-1:ffn.output",), "weights: 3-1:ffn.output: layers 3 to 1 are no range; it rises"),
        (
            (f"0-{MOST_LAYERS}:ffn.output",),
            f"is no range|are no range; it rises, and has at most {MOST_LAYERS}",
        ),
        (("0-999999999:ffn.output",), "are no range"),
        (("0-3:ffn.output", "3-4:ffn.output"), "3-4:ffn.output: 3:ffn.output is in two ranges of layers"),
    ],
)
def test_ranges_that_are_wrong(keys: tuple[str, ...], message: str) -> None:
    text = "bqc_recipe: 1\nweights:\n" + "".join(f"  {key}: BlockShift(8,64)\n" for key in keys)
    with pytest.raises(BqcError, match=message):
        Plan.from_yaml(text, "r.yaml")


def test_a_recipe_in_ranges_compiles_as_the_one_it_stands_for(tmp_path: Path) -> None:
    model = canonical_bert(layers=3, hidden=48, heads=2, ffn=64, vocab=90)
    whole = bqc.compile(model, output=tmp_path / "a.onnx", dry_run=True).plan
    text = whole.to_yaml()
    assert "0-2:ffn.output: " in text
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text, encoding="utf-8")
    assert Plan.read(recipe) == whole
    assert bqc.compile(model, recipe=recipe, output=tmp_path / "b.onnx", dry_run=True).plan == whole

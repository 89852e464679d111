"""A model is the same as itself in disguise; every change is found; a comparison read backwards is its mirror image."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqc.diff import DiffReport, diff
from tests.support.edits import CHANGES, disguise, random_graph

SEEDS = st.integers(0, 10_000)
MIRROR = {"added": "removed", "removed": "added"}


def compared(a: onnx.ModelProto, b: onnx.ModelProto) -> DiffReport:
    return diff(ir.from_proto(a), ir.from_proto(b))


def changed(seed: int, names: list[str]) -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    before = random_graph(seed)
    after = onnx.ModelProto()
    after.CopyFrom(before)
    chance = random.Random(seed)
    done = sum(CHANGES[name](after, chance) for name in names)
    return before, after, done


@given(SEEDS, SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_disguise_is_the_same(seed: int, other: int) -> None:
    model = random_graph(seed)
    report = compared(model, disguise(model, other))
    assert report.same, report


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_found(name: str) -> None:
    found = 0
    for seed in range(40):
        before, after, done = changed(seed, [name])
        if done:
            report = compared(before, disguise(after, seed))
            assert not report.same, (seed, onnx.printer.to_text(before), onnx.printer.to_text(after))
            found += 1
    assert found >= 10


@given(SEEDS, st.lists(st.sampled_from(sorted(CHANGES)), max_size=3))
@settings(max_examples=100, deadline=None)
def test_backwards_is_the_mirror_image(seed: int, names: list[str]) -> None:
    before, after, _ = changed(seed, names)
    there, back = compared(before, after), compared(after, before)
    assert there.same == back.same
    for what in ("signature", "nodes", "weights"):
        assert image(getattr(there, what)) == mirrored(getattr(back, what)), what
    assert there.weights_same == back.weights_same


def image(changes: list[Any]) -> Counter[str]:
    return Counter(map(_plain, changes))


def mirrored(changes: list[Any]) -> Counter[str]:
    return Counter(_plain(_turned(change)) for change in changes)


def _turned(change: Any) -> Any:
    swapped = {"kind": MIRROR.get(change.kind, change.kind), "a": change.b, "b": change.a}
    if hasattr(change, "format_a"):
        swapped |= {"format_a": change.format_b, "format_b": change.format_a}
        swapped |= {"bytes_a": change.bytes_b, "bytes_b": change.bytes_a, "values": change.values[::-1]}
    if hasattr(change, "details"):
        swapped["details"] = [_turned_text(text) for text in change.details]
    return replace(change, **swapped)


def _turned_text(text: str) -> str:
    what, _, values = text.partition(": ")
    first, _, second = values.partition(" -> ")
    return f"{what}: {second} -> {first}"


def _plain(change: Any) -> str:
    return repr(change)

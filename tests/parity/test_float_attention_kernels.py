"""Attention of float32 numbers: kernels at every level and thread count, bodies, and padding that changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bqc.ops import ragged_reference
from bqc.ops.float_reference import float_attention
from bqc.ops.registry import OPERATORS
from tests.parity.test_bodies import SIZES
from tests.parity.test_kernels_against_reference import (  # noqa: F401
    Array,
    Maker,
    check,
    levels,
    model,
    session,
)
from tests.parity.test_ragged_kernels import LENGTHS
from tests.support.op_cases import Case, Sizes, bert_cases, feeds, same_bits
from tests.support.op_cases import model as whole_model

MORE = [
    Sizes(batch=1, length=1, heads=12, width=64, seed=11),
    Sizes(batch=2, length=17, heads=3, width=26, seed=12, spread=6),
    Sizes(batch=3, length=65, heads=2, width=32, seed=13),
    Sizes(batch=1, length=512, heads=2, width=64, seed=14),
]
CASES = [
    case
    for sizes in (*SIZES, *MORE)
    for case in bert_cases(sizes)
    if case.op in ("FloatAttention", "RaggedFloatAttention")
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits(case: Case, check: Any) -> None:  # noqa: F811
    check(case.op, OPERATORS[case.op].reference, case.inputs, case.attributes)


def inputs(make: Maker, batch: int, tokens: int, hidden: int, hostile: float = 0.0) -> list[Array]:
    return [make.floats(batch, tokens, hidden, spread=2.0, hostile=hostile) for _ in range(3)]


@pytest.mark.parametrize("hostile", [0.02, 0.5], ids=str)
@pytest.mark.parametrize("scale", [0.125, 1e30, 0.0])
def test_numbers_of_every_kind(hostile: float, scale: float, check: Any) -> None:  # noqa: F811
    """In the body too: sums overflow, and are infinite or none."""
    make = Maker(int(100 * hostile))
    mask = (make.r.random((2, 9)) < 0.7).astype(np.int64)
    given = [*inputs(make, 2, 9, 52, hostile), mask]
    attributes = {"heads": 2, "scale": float(np.float32(scale))}
    check("FloatAttention", float_attention, given, attributes)
    case = Case("FloatAttention", given, attributes)
    body = ort.InferenceSession(
        whole_model(case).SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, feeds(case))[0]
    assert same_bits(np.asarray(body), float_attention(*given, **attributes))


@pytest.mark.parametrize(("heads", "width"), [(2, 32), (3, 26), (1, 64)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_sequences(check: Any, lengths: tuple[int, ...], heads: int, width: int) -> None:  # noqa: F811
    make = Maker(len(lengths) + width)
    tokens = sum(lengths)
    given = [part[0] for part in inputs(make, 1, tokens, heads * width, 0.01)]
    mask = (make.r.random(tokens) < 0.7).astype(np.int64)
    seq_start = np.cumsum([0, *lengths]).astype(np.int64)
    if len(lengths) > 1:
        mask[: seq_start[1]] = 0  # nothing is kept of the first
    attributes = {"heads": heads, "scale": 0.25}
    function = ragged_reference.ragged_float_attention
    check("RaggedFloatAttention", function, [*given, mask, seq_start], attributes)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_changes_nothing(left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On either side, whatever it holds: the bits of the sequence alone."""
    make = Maker(5)
    alone = inputs(make, 1, 21, 96)
    attributes = {"heads": 3, "scale": 0.2}
    padded = [make.floats(1, 40, 96, spread=30.0, hostile=0.2) for _ in alone]
    where = slice(19, 40) if left else slice(0, 21)
    for whole, part in zip(padded, alone, strict=True):
        whole[:, where] = part
    mask = np.zeros((1, 40), np.int64)
    mask[:, where] = 1
    wanted = float_attention(*alone, np.ones((1, 21), np.int64), **attributes)
    given = [*padded, mask]
    for level in levels():
        monkeypatch.setenv("BQC_MAX_ISA", level)
        running = session(model("FloatAttention", given, set(), [padded[0]], attributes), 2)
        (got,) = running.run(None, {f"in{i}": x for i, x in enumerate(given)})
        np.testing.assert_array_equal(got[:, where], wanted, err_msg=level)


def test_it_is_the_attention_of_papers() -> None:
    """Within rounding of softmax in float64, of all keys and of some."""
    make = Maker(2)
    q, key, values = inputs(make, 2, 30, 64)
    mask = np.ones((2, 30), np.int64)
    mask[1, 7:] = 0
    got = float_attention(q, key, values, mask, heads=2, scale=0.125)
    q4, k4, v4 = (x.astype(np.float64).reshape(2, 30, 2, 32).transpose(0, 2, 1, 3) for x in (q, key, values))
    scores = np.where(mask[:, None, None, :] != 0, q4 @ k4.swapaxes(2, 3) * 0.125, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = (weights @ v4 / weights.sum(-1, keepdims=True)).transpose(0, 2, 1, 3).reshape(q.shape)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(values).max())

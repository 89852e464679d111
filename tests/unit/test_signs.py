"""Binary and Ternary: definitions, special values, and the exact split of a ternary weight into two binary ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqc.formats import Binary, Ternary
from bqc.formats.signs import split_ternary

RNG = np.random.default_rng(0)
SPANS = ("tensor", "row")


def binary(w: np.ndarray, span: str) -> np.ndarray:
    """In float64, as the paper has it."""
    axis = 1 if span == "row" else None
    return np.abs(w).mean(axis=axis, keepdims=True) * np.where(w >= 0, 1, -1)


def ternary(w: np.ndarray, span: str) -> np.ndarray:
    """In float64, as the paper has it."""
    rows = w if span == "row" else w.reshape(1, -1)
    found = np.zeros_like(rows)
    for row, out in zip(rows, found, strict=True):
        kept = np.abs(row) > 0.7 * np.abs(row).mean()
        if kept.any():
            out[kept] = np.abs(row[kept]).mean() * np.sign(row[kept])
    return found.reshape(w.shape)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("fmt", "wanted"), [(Binary, binary), (Ternary, ternary)])
def test_definitions(fmt: type[Binary | Ternary], wanted: object, span: str) -> None:
    w = (RNG.standard_normal((11, 70)) + 0.3).astype(np.float32)
    signs, scales = fmt(span).quantize(w)
    assert signs.shape == (fmt(span).planes, 11, 70)
    assert scales.shape == (fmt(span).planes, 11 if span == "row" else 1)
    assert set(np.unique(signs)) == {-1, 1}
    values = fmt(span).dequantize(signs, scales)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted(w.astype(np.float64), span), rtol=1e-7, atol=0)  # type: ignore[operator]


def test_zeros_of_a_ternary_weight_are_exact() -> None:
    w = RNG.standard_normal((5, 64)).astype(np.float32)
    fmt = Ternary("row")
    values = fmt.dequantize(*fmt.quantize(w))
    assert ((values == 0) == (ternary(w.astype(np.float64), "row") == 0)).all()


def test_special_values() -> None:
    w = np.array([[np.nan, 0.0, -0.0, 2.0**-127], [1.0, -1.0, np.nan, 2.0]], np.float32)
    signs, scales = Binary("row").quantize(w)
    assert signs[0].tolist() == [[1, 1, 1, 1], [1, -1, 1, 1]]
    assert scales.tolist() == [[0.0, 1.0]]
    fmt = Ternary("row")
    assert fmt.dequantize(*fmt.quantize(w)).tolist() == [
        [0, 0, 0, 0],
        [np.float32(4 / 3), -np.float32(4 / 3), 0, np.float32(4 / 3)],
    ]


@pytest.mark.parametrize("fmt", [Binary("tensor"), Binary("row"), Ternary("tensor"), Ternary("row")])
def test_names(fmt: Binary | Ternary) -> None:
    assert type(fmt).parse(str(fmt)) == fmt
    assert fmt.bits_per_element(30522, 768) == pytest.approx(fmt.planes, rel=0.05)


@pytest.mark.parametrize("text", ["Binary(block)", "Binary(64)", "Ternary", "Binary(row"])
def test_no_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like Binary\(tensor\)|no scale a"):
        Binary.parse(text)


SKEWS = {
    "no mean": lambda n: RNG.standard_normal(n),
    "positive": lambda n: RNG.standard_normal(n) + 0.8,
    "negative": lambda n: RNG.standard_normal(n) - 1.5,
    "one sign": lambda n: -RNG.random(n),
    "heavy tails": lambda n: RNG.standard_t(2, n) + 0.2,
    # What becomes 0 is all positive and outweighs what is kept: the paper's a is negative.
    "zeros outweigh": lambda n: np.where(RNG.random(n) < 0.02, 40.0, 0.6 + 0.01 * RNG.random(n)),
    "equal": lambda n: np.where(RNG.random(n) < 0.5, 0.5, -0.5),
    "mostly zero": lambda n: np.where(RNG.random(n) < 0.1, RNG.standard_normal(n), 0.0),
}


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("skew", SKEWS)
def test_the_split_is_exact(skew: str, span: str) -> None:
    w = SKEWS[skew]((23, 129)).astype(np.float64)
    w[3] = 0.0
    require_exact(w, span)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40), st.sampled_from(SPANS))
def test_the_split_of_anything_is_exact(numbers: list[float], span: str) -> None:
    require_exact(np.array([numbers], np.float64), span)


def require_exact(w: np.ndarray, span: str) -> None:
    first, second = split_ternary(w, span)
    largest = np.abs(w).max(initial=0)
    assert np.abs(first + second - w).max() <= 1e-15 * max(largest, 1e-300)
    wanted = ternary(w, span)
    found = binary(first, span) + binary(second, span)
    assert np.abs(found - wanted).max() <= 1e-12 * max(np.abs(wanted).max(), 1e-300)


def test_the_paper_prints_another_sign() -> None:
    w = RNG.standard_normal((8, 64)) + 0.5
    kept = ternary(w, "tensor") != 0
    size, zero = np.abs(w), ~kept
    printed = (size[kept].sum() + size[zero & (w > 0)].sum() - size[zero & (w <= 0)].sum()) / (
        2 * size[kept].sum()
    )
    first, _ = split_ternary(w)
    share = (first[kept] / w[kept]).mean()
    assert abs(share - printed) > 0.01
    assert share + printed == pytest.approx(1)

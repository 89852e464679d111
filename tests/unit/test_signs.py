"""Binary and Ternary: definitions, special values, and the exact split of a ternary weight into two binary ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("make", [Binary, Ternary, lambda span, **more: Binary(span, planes=2, **more)])
def test_scales_in_fp16(make: Any, span: str) -> None:
    """They are those of float32, rounded; only what a first plane leaves is what its rounded scale leaves."""
    w = (RNG.standard_normal((11, 70)) * np.exp2(RNG.integers(-12, 3, (11, 1))) + 0.01).astype(np.float32)
    w[4] = 0
    fmt, wide = make(span, scales="fp16"), make(span)
    parts, known = fmt.quantized(w), wide.quantized(w)
    assert parts["scales"].dtype == np.float16
    np.testing.assert_array_equal(parts["signs"][0], known["signs"][0])
    np.testing.assert_array_equal(parts["scales"][0], known["scales"][0].astype(np.float16))
    np.testing.assert_allclose(parts["scales"], known["scales"], rtol=2**-9, atol=0)
    values = fmt.restore(parts, w.shape)
    assert values.dtype == np.float32
    tiles, _ = fmt.tiles(parts)
    rows, _ = fmt.table(parts)
    assert tiles["scales"].dtype == rows["scales"].dtype == np.float16
    np.testing.assert_array_equal(fmt.restore(tiles, w.shape), values)
    np.testing.assert_array_equal(fmt.restore(rows, w.shape), values)
    for table, stored in ((False, tiles), (True, rows)):
        assert fmt.stored_bytes(*w.shape, table=table) == sum(part.nbytes for part in stored.values())
    assert fmt.bits_per_element(*w.shape) < wide.bits_per_element(*w.shape)
    assert (fmt.agrees(parts, w) != wide.agrees(known, w)).mean() < 0.01


@pytest.mark.parametrize("fmt", [Binary("row", scales="fp16"), Ternary("tensor", scales="fp16")])
def test_scales_that_fp16_cannot_hold(fmt: Binary | Ternary) -> None:
    w = RNG.standard_normal((5, 64)).astype(np.float32)
    for factor in (1e-30, 1e-6, 1e6, 1e30):
        with pytest.raises(ValueError, match="use scales in fp32"):
            fmt.quantized(w * np.float32(factor))
        signs, scales = fmt.quantize(w * np.float32(factor))  # but trying a format is no error
        assert np.isfinite(fmt.dequantize(signs, scales)).all()
    assert not fmt.restore(fmt.quantized(np.zeros((5, 64), np.float32)), (5, 64)).any()
    # Beside others, a row that is almost nothing is rounded to nearest: to a subnormal number, then to 0.
    w[1] *= np.float32(1e-6)
    w[2] *= np.float32(1e-9)
    near = fmt.restore(fmt.quantized(w), w.shape)
    assert (
        np.abs(
            near - replace(fmt, scales="fp32").restore(replace(fmt, scales="fp32").quantized(w), w.shape)
        ).max()
        < 1e-3
    )


@pytest.mark.parametrize(
    "fmt",
    [
        *(kind(span) for kind in (Binary, Ternary) for span in SPANS),
        Binary("row", scales="fp16", planes=2),
        Ternary("row", 24, "fp16"),
    ],
)
def test_names(fmt: Binary | Ternary) -> None:
    assert type(fmt).parse(str(fmt)) == fmt
    assert fmt.bits_per_element(30522, 768) == pytest.approx(fmt.planes, rel=0.05)


@pytest.mark.parametrize(
    "text",
    ["Binary(block)", "Binary(64)", "Ternary", "Binary(row", "Binary(row,planes=fp16)", "Binary(row,half=1)"],
)
def test_no_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like Binary\(tensor\)|no scale a"):
        Binary.parse(text)


def test_no_such_scales() -> None:
    with pytest.raises(ValueError, match="Ternary has no scales in 'fp8'; they are in one of fp32, fp16"):
        Ternary.parse("Ternary(row,scales=fp8)")


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

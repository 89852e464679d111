"""Half and Index8: rounding, special values, errors, idempotence, packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqc.formats import Half, Index8
from bqc.formats.half import HalfWeight, to_half
from bqc.formats.index8 import LEVELS, index_table
from bqc.formats.stored import weight_format
from bqc.formats.strips import pack_strips, unpack_strips

FORMATS = [Half(), Index8()]
RNG = np.random.default_rng(0)
matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-65504, 65504, width=32),
)
any_floats = hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32))


def half_by_value(x: float) -> float:
    """The nearest fp16 number, ties to even, by arithmetic in float64."""
    if np.isnan(x):
        return 0.0
    if abs(x) >= 65504:
        return float(np.copysign(65504, x))
    spacing = 2.0 ** max(np.frexp(x)[1] - 11, -24)
    return float(np.rint(x / spacing)) * spacing


@given(any_floats)
@settings(max_examples=300, deadline=None)
def test_rounding(x: np.ndarray) -> None:
    got = to_half(x)
    assert got.dtype == np.float16
    assert got.astype(np.float64).tolist() == [half_by_value(float(v)) for v in x.astype(np.float64)]


def test_every_half_is_itself() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert to_half(finite.astype(np.float32)).tobytes() == finite.tobytes()


def test_special_values() -> None:
    x = np.array(
        [np.nan, np.inf, -np.inf, 65519, 65520, -1e38, -0.0, 2.0**-25, 3 * 2.0**-26, 1e-40], np.float32
    )
    assert to_half(x).tolist() == [0, 65504, -65504, 65504, 65504, -65504, 0, 0, 2.0**-24, 0]
    assert np.signbit(to_half(x)).tolist() == [False, False, True, False, False, True, True, *[False] * 3]


def test_products_are_exact_and_normal() -> None:
    """What lets kernels use fused multiply-add: no product of two fp16 numbers needs rounding in float32."""
    extremes = np.array([2.0**-24, 2.0**-14 - 2.0**-24, 2.0**-14, 1 + 2.0**-10, 2047, 65504], np.float64)
    for a in extremes:
        for b in extremes:
            assert float(np.float32(a) * np.float32(b)) == a * b
            assert 2.0**-48 <= a * b < 2.0**32


@given(matrices)
@settings(max_examples=300, deadline=None)
def test_index_errors(w: np.ndarray) -> None:
    codes, table = Index8().quantize(w)
    assert codes.dtype == np.uint8
    assert (table.shape, table.dtype) == ((LEVELS,), np.float16)
    wide = table.astype(np.float64)
    assert (np.diff(wide) >= 0).all()
    assert not np.signbit(table[table == 0]).any()
    assert table[0] == to_half(w.min())
    assert table[255] == to_half(w.max())
    low, high = wide[0], wide[-1]
    value = wide[codes]
    # Half a step, and the rounding to fp16 of what is stored.
    bound = (high - low) / 510 + np.abs(w).max() * 2.0**-11 + 2.0**-25
    assert np.abs(value - w).max() <= bound * (1 + 1e-6)
    # No number of the table is nearer.
    nearest = np.abs(wide[:, None] - w.astype(np.float64).reshape(1, -1)).min(axis=0)
    assert (np.abs(value - w).reshape(-1) == nearest).all()
    assert value.flat[w.argmin()] == low
    assert value.flat[w.argmax()] == high


@given(matrices)
@settings(max_examples=300, deadline=None)
def test_quantising_twice_changes_nothing(w: np.ndarray) -> None:
    for fmt in FORMATS:
        once = fmt.restore(fmt.parts(w), w.shape)
        again = fmt.parts(once)
        np.testing.assert_array_equal(fmt.restore(again, w.shape), once)


def test_indices_of_sensimix() -> None:
    """The published rounding, wherever fp16 is finer than a step."""
    w = (RNG.standard_normal((40, 70)) * 0.05).astype(np.float32)
    codes, table = Index8().quantize(w)
    low, high = float(table[0]), float(table[255])
    published = np.clip(np.rint((w.astype(np.float64) - low) * 255 / (high - low)), 0, 255)
    off = codes != published
    assert off.mean() < 0.05
    assert np.abs(codes.astype(int) - published).max() <= 1


@pytest.mark.parametrize("constant", [0.0, -0.0, 0.1, -65504.0, 2.0**-24])
def test_constant_matrices(constant: float) -> None:
    w = np.full((3, 4), constant, np.float32)
    codes, table = Index8().quantize(w)
    assert codes.min() == codes.max()
    assert (table == to_half(w)[0, 0]).all()


def test_a_range_of_everything() -> None:
    table = index_table(-65504, 65504)
    assert (table[0], table[255]) == (-65504, 65504)
    assert np.isfinite(table).all()


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (16, 3), (21, 40), (33, 7)])
def test_packing(fmt: HalfWeight, shape: tuple[int, int]) -> None:
    w = (RNG.standard_normal(shape) * 0.3).astype(np.float32)
    parts = fmt.quantized(w)
    wanted = fmt.restore(parts, shape)
    tiles, attributes = fmt.tiles(parts)
    assert attributes == {"rows": shape[0], "columns": shape[1], "layout": "n16"}
    assert tiles["tiles"].shape == (-(-shape[0] // 16), shape[1], 16)
    np.testing.assert_array_equal(fmt.restore(tiles, shape), wanted)
    rows, attributes = fmt.table(parts)
    assert attributes == {"columns": shape[1], "layout": "row"}
    np.testing.assert_array_equal(fmt.restore(rows, shape), wanted)
    for stored, table in ((tiles, False), (rows, True)):
        assert sum(part.nbytes for part in stored.values()) == fmt.stored_bytes(*shape, table=table)
        assert fmt.agrees(stored, w).all()
        assert fmt.agrees(stored, w + 1).sum() <= 1  # but for a largest index
        if shape[0] > 16:
            part = fmt.rows(stored, 16, shape[0])
            np.testing.assert_array_equal(fmt.restore(part, (shape[0] - 16, shape[1])), wanted[16:])
    assert fmt.weight_error(w) < 1e-4
    assert fmt.weight_error(wanted) == 0


def test_strips_of_any_type() -> None:
    matrix = np.arange(6, dtype=np.uint8).reshape(2, 3)
    tiles = pack_strips(matrix)
    assert tiles.dtype == np.uint8
    assert tiles[0, :, 0].tolist() == [0, 1, 2]
    assert tiles[0, :, 1].tolist() == [3, 4, 5]
    assert not tiles[0, :, 2:].any()
    np.testing.assert_array_equal(unpack_strips(tiles, 2), matrix)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_weight_beyond_fp16_is_refused(fmt: HalfWeight) -> None:
    w = np.array([[1, -65536]], np.float32)
    with pytest.raises(ValueError, match=r"holds numbers up to 65536, and fp16 ends at 65504"):
        fmt.quantized(w)
    assert fmt.restore(fmt.parts(w), (1, 2))[0, 1] == -65504
    fmt.quantized(np.array([[65504.0, -65504.0]], np.float32))


def test_names() -> None:
    for text, fmt in (("Half()", Half()), ("Index8()", Index8()), ("Index8( tensor )", Index8())):
        assert weight_format(text) == fmt
    assert [str(fmt) for fmt in FORMATS] == ["Half()", "Index8(tensor)"]
    for text in ("Half", "Half(8)", "Index8(row)", "Index8(tensor,2)", "Index(tensor)"):
        with pytest.raises(ValueError, match=r"written like|write it like|it is written"):
            weight_format(text)
    with pytest.raises(ValueError, match="Index8 has one table for the whole tensor, none for 'row'"):
        weight_format("Index8(row)")
    assert Half().bits_per_element(3, 4) == 16
    assert Index8().bits_per_element(768, 768) == pytest.approx(8, rel=1e-3)

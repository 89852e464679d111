"""Sparse: masks, scales and their error bound, special values, and the layout of tiles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqc.formats import Sparse
from bqc.formats.sparse import PATTERNS
from bqc.formats.sparse_layouts import pack_sparse_tiles, step_bytes, step_inputs, unpack_sparse_tiles
from bqc.formats.stored import weight_format

RNG = np.random.default_rng(0)
FORMATS = [Sparse(kept, of, bits) for kept, of in PATTERNS for bits in (8, 4)]
SHAPES = [(16, 64), (20, 26), (1, 1), (5, 7), (33, 312)]


def normal(rows: int, columns: int) -> np.ndarray:
    return RNG.standard_normal((rows, columns)).astype(np.float32)


def naive_mask(w: np.ndarray, fmt: Sparse) -> np.ndarray:
    kept = np.zeros(w.shape, bool)
    span = fmt.group or w.shape[1]
    for row, group in itertools.product(range(w.shape[0]), range(w.shape[1] // span)):
        for start in range(0, span, fmt.of):
            inputs = list(range(group * span + start, group * span + min(start + fmt.of, span)))
            kept[row, sorted(inputs, key=lambda i: (-abs(w[row, i]), i))[: fmt.kept]] = True
    return kept


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_largest_are_kept(fmt: Sparse, shape: tuple[int, int]) -> None:
    w = np.round(normal(*shape) * 3)  # with equal ones
    assert (fmt.mask(w) == naive_mask(w, fmt)).all()
    codes, scales = fmt.quantize(w)
    assert codes.dtype == np.int8
    assert scales.dtype == np.float32
    assert scales.shape == (shape[0],)
    assert (codes[~naive_mask(w, fmt)] == 0).all()


@pytest.mark.parametrize("group", [26, 32, 64])
def test_counting_starts_anew_in_every_group(group: int) -> None:
    fmt = Sparse(2, 8, group=group)
    w = normal(6, 2 * group)
    assert (fmt.mask(w) == naive_mask(w, fmt)).all()
    halves = [fmt.mask(w[:, :group]), fmt.mask(w[:, group:])]
    assert (fmt.mask(w) == np.concatenate(halves, axis=1)).all()


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_sparse_matrix_keeps_its_mask(fmt: Sparse) -> None:
    w = normal(24, 96)
    w[~fmt.mask(w)] = 0
    w[3, ::3] = 0
    codes, scales = fmt.quantize(w)
    assert (fmt.mask(w) >= (w != 0)).all()
    # Nothing but rounding is lost: within half a step, and more only where the largest are clipped.
    off = np.abs(fmt.dequantize(codes, scales) - w)
    clipped = np.abs(codes) == fmt.high
    assert (off <= scales[:, None] * 0.5001)[~clipped].all()
    if fmt.bits == 8:
        assert (off <= scales[:, None] * 0.5001).all()
        np.testing.assert_array_equal(scales, np.abs(w).max(axis=1) / np.float32(127))


def test_scales_of_few_bits_have_the_least_error() -> None:
    fmt = Sparse(2, 4, 4)
    w = normal(40, 256)
    w[0, 0] = 30  # an outlier that is best clipped
    codes, scales = fmt.quantize(w)
    pruned = np.where(fmt.mask(w), w, 0).astype(np.float64)
    largest = np.abs(pruned).max(axis=1)

    def error(scale: np.ndarray) -> np.ndarray:
        rounded = np.clip(np.rint(pruned / scale[:, None]), -7, 7) * scale[:, None]
        return np.asarray(((rounded - pruned) ** 2).sum(axis=1))

    every = np.stack([error(largest * share / 7) for share in fmt.shares])
    found = error(scales.astype(np.float64))
    np.testing.assert_allclose(found, every.min(axis=0), rtol=1e-3)
    assert len(set(every.argmin(axis=0))) > 1
    assert np.abs(codes).max() == 7


@pytest.mark.parametrize(("bits", "most"), [(8, 1e-4), (4, 0.012)])
def test_error_bound_of_kept_weights(bits: int, most: float) -> None:
    fmt = Sparse(2, 4, bits)
    w = normal(64, 768)
    w[~fmt.mask(w)] = 0
    assert fmt.weight_error(w) < most


def test_special_values() -> None:
    fmt = Sparse(2, 4)
    w = np.zeros((5, 8), np.float32)
    w[0, :4] = [np.nan, 2.0**-127, 1.0, -1.0]
    w[1, 0], w[1, 1], w[1, 2] = np.inf, -np.inf, 1.0
    w[2, 1] = 2.0**-126
    w[4] = 1e30
    codes, scales = fmt.quantize(w)
    assert codes[0].tolist() == [0, 0, 127, -127, 0, 0, 0, 0]
    assert codes[1].tolist() == [127, -127, 0, 0, 0, 0, 0, 0]
    assert codes[2].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]  # the scale is a normal number
    assert codes[3].tolist() == [0] * 8
    assert scales[3] == 1
    assert codes[4].tolist() == [127, 127, 0, 0, 127, 127, 0, 0]  # of equal ones the first
    assert np.isfinite(scales).all()
    assert (scales >= 2.0**-126).all()
    assert np.isfinite(fmt.dequantize(codes, scales)).all()


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_names(fmt: Sparse) -> None:
    assert Sparse.parse(str(fmt)) == weight_format(str(fmt)) == fmt
    grouped = Sparse(fmt.kept, fmt.of, fmt.bits, 64)
    assert Sparse.parse(str(grouped)) == grouped
    assert f"{fmt.kept}:{fmt.of}" in fmt.words
    share = fmt.kept / fmt.of
    wanted = share * (fmt.bits + (3 if fmt.of == 8 else 2))
    assert fmt.bits_per_element(768, 3072) == pytest.approx(wanted, abs=0.02)


def test_bits_are_eight_where_nothing_is_said() -> None:
    assert Sparse.parse("Sparse(2,4)") == Sparse(2, 4, 8)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Sparse(3,4,8)", "not 3 of 4"),
        ("Sparse(2,4,6)", "no 6-bit codes"),
        ("Sparse(2)", r"write it like Sparse\(2,4,8\)"),
        ("Sparse(2,4,8,64)", "write it like"),
    ],
)
def test_no_names(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Sparse.parse(text)


def test_there_are_no_tables() -> None:
    fmt = Sparse()
    with pytest.raises(ValueError, match=r"Sparse\(2,4,8\) is no format of a lookup table"):
        fmt.table(fmt.quantized(normal(4, 8)))
    with pytest.raises(ValueError, match="no format of a lookup table"):
        fmt.stored_bytes(4, 8, table=True)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("shape", "group"), [*((s, 0) for s in SHAPES), ((18, 52), 26), ((16, 96), 32)], ids=str
)
def test_what_is_stored_comes_back(fmt: Sparse, shape: tuple[int, int], group: int) -> None:
    fmt = Sparse(fmt.kept, fmt.of, fmt.bits, group)
    w = normal(*shape)
    w[RNG.random(shape) < 0.3] = 0
    plain = fmt.quantized(w)
    packed, attributes = fmt.tiles(plain)
    assert sum(part.nbytes for part in packed.values()) == fmt.stored_bytes(*shape, table=False)
    assert attributes["layout"] == "n16s4"
    np.testing.assert_array_equal(fmt.restore(packed, shape), fmt.restore(plain, shape))
    np.testing.assert_array_equal(fmt.restore(plain, shape), fmt.dequantize(*fmt.quantize(w)))
    assert fmt.agrees(packed, w).all()
    if shape[0] > 16:
        some = fmt.rows(packed, 16, shape[0])
        np.testing.assert_array_equal(
            fmt.restore(some, (shape[0] - 16, shape[1])), fmt.restore(plain, shape)[16:]
        )
        assert fmt.rows(plain, 16, shape[0])["codes"].shape[0] == shape[0] - 16
    # The negative has the same mask, and the opposite codes.
    np.testing.assert_array_equal(fmt.agrees(packed, -w), fmt.restore(plain, shape) == 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_codes_come_back(data: st.DataObject) -> None:
    fmt = data.draw(st.sampled_from(FORMATS))
    span = data.draw(st.integers(1, 40))
    groups = data.draw(st.integers(1, 3))
    rows = data.draw(st.integers(1, 18))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    raw = rng.integers(-fmt.high, fmt.high + 1, (rows, groups * span)).astype(np.int8)
    mask = Sparse(fmt.kept, fmt.of, fmt.bits, span).mask(rng.random(raw.shape).astype(np.float32))
    codes = np.where(mask, raw, 0).astype(np.int8)
    packed = pack_sparse_tiles(codes, fmt.kept, fmt.of, fmt.bits, span)
    found = unpack_sparse_tiles(packed, *codes.shape, fmt.kept, fmt.of, fmt.bits, span)
    np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_bytes_of_a_step_by_hand(fmt: Sparse) -> None:
    inputs = step_inputs(fmt.kept, fmt.of)
    codes = np.zeros((16, 32), np.int8)
    output, start = 9, inputs if inputs < 32 else 0
    codes[output, start : start + fmt.kept] = np.arange(1, fmt.kept + 1)
    packed = pack_sparse_tiles(codes, fmt.kept, fmt.of, fmt.bits)
    steps = 32 // inputs
    step = start // inputs
    assert packed.shape == (1, steps * step_bytes(fmt.of, fmt.bits))
    for slot in range(4):
        position = 4 * output + slot
        if fmt.bits == 8:
            stored = packed[0, 64 * step + position]
        else:
            stored = packed[0, 32 * step + position % 32] >> 4 * (position // 32) & 15
        low = packed[0, steps * 8 * fmt.bits + 16 * step + position % 16] >> 2 * (position // 16) & 3
        index = slot % fmt.kept
        assert stored == 2 ** (fmt.bits - 1) + (slot + 1 if slot < fmt.kept else 0)
        assert low == index & 3
        if fmt.of == 8:
            high = packed[0, steps * (8 * fmt.bits + 16) + 8 * step + position % 8] >> position // 8 & 1
            assert high == index >> 2


def test_too_many_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 2 of 4 consecutive codes are not 0"):
        pack_sparse_tiles(np.ones((16, 16), np.int8), 2, 4, 8)

"""BlockShift: exactness, error bounds, special values, packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqc.formats import Blocks, BlockShift
from bqc.formats.stored import stored_format

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256, "row"])
@pytest.mark.parametrize("length", [5, 26, 64, 312, 384])
def test_error_is_half_a_step_or_a_step_where_clamped(bits: int, block: int | str, length: int) -> None:
    fmt = BlockShift(bits, block)
    x = (RNG.standard_normal((7, length)) * np.exp2(RNG.integers(-20, 20, (7, 1)))).astype(np.float32)
    codes, exponents = fmt.quantize(x)
    step = np.exp2(exponents.astype(np.float64))[:, fmt.blocks(length).owner]
    error = np.abs(fmt.dequantize(codes, exponents) - x.astype(np.float64))
    clamped = (codes == fmt.high) | (codes == fmt.low)
    assert (error <= np.where(clamped, step, step / 2)).all()


def test_a_power_of_two_maximum_saturates_by_one_step() -> None:
    codes, exponents = BlockShift(8, "row").quantize(np.array([[128.0, -128.0, 127.0]], np.float32))
    assert exponents.tolist() == [[0]]
    assert codes.tolist() == [[127, -127, 127]]


def test_special_values() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 1.0], [2.0**-127, 0, 0, -0.0]], np.float32)
    codes, exponents = BlockShift(8, "row").quantize(x)
    assert codes.tolist() == [[0, 127, -127, 0], [0, 0, 0, 0]]
    assert exponents.tolist() == [[121], [-126]]


def test_four_bit_codes_reach_minus_eight() -> None:
    codes, exponents = BlockShift(4, "row").quantize(np.array([[-8.0, 8.0, 7.4]], np.float32))
    assert exponents.tolist() == [[0]]
    assert codes.tolist() == [[-8, 7, 7]]


def test_two_bit_codes_are_ternary_and_keep_their_inverse_scale_normal() -> None:
    codes, exponents = BlockShift(2, "row").quantize(np.array([[-2.0, 2.0, 0.4], [3e38, 0, -1]], np.float32))
    assert exponents.tolist() == [[0], [126]]
    assert codes.tolist() == [[-1, 1, 0], [1, 0, 0]]


def test_three_bit_codes_are_symmetric() -> None:
    codes, exponents = BlockShift(3, "row").quantize(np.array([[-4.0, 4.0, 2.5, 0.5, -1.4]], np.float32))
    assert exponents.tolist() == [[0]]
    assert codes.tolist() == [[-3, 3, 2, 0, -1]]


def test_weight_exponents_never_lose_to_the_range_rule() -> None:
    w = (RNG.standard_t(3, (32, 256))).astype(np.float32)
    for bits in (8, 6, 2, 3, 4):
        fmt = BlockShift(bits, 64)
        plain = np.square(fmt.dequantize(*fmt.quantize(w)) - w).sum()
        chosen = np.square(fmt.dequantize(*fmt.quantize_weights(w)) - w).sum()
        assert chosen <= plain
    assert chosen < 0.9 * plain  # at 4 bits heavy tails are worth clipping


def test_tensor_has_one_exponent() -> None:
    w = RNG.standard_normal((8, 96)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)[:, None]
    _, exponents = BlockShift(8, "tensor").quantize_weights(w)
    assert np.unique(exponents).size == 1


def test_blocks_never_cross_a_group() -> None:
    blocks = Blocks(52, 16, 26)
    assert blocks.starts.tolist() == [0, 16, 26, 42]
    assert blocks.sizes.tolist() == [16, 10, 16, 10]
    with pytest.raises(ValueError, match="whole number of groups"):
        Blocks(50, 16, 26)


@given(
    bits=st.sampled_from([8, 6, 4, 3, 2]),
    rows=st.integers(1, 40),
    groups=st.integers(1, 3),
    span=st.integers(1, 50),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_packing_round_trips(bits: int, rows: int, groups: int, span: int, seed: int) -> None:
    fmt = BlockShift(bits, 16, span)
    codes = np.random.default_rng(seed).integers(fmt.low, fmt.high + 1, (rows, groups * span)).astype(np.int8)
    tiles = fmt.pack_matrix(codes)
    assert tiles.shape == (-(-rows // 16), -(-groups * (-(-span // 16) * 16) * bits // 32), 16, 4)
    np.testing.assert_array_equal(fmt.unpack_matrix(tiles, rows, groups * span), codes)
    np.testing.assert_array_equal(fmt.unpack_rows(fmt.pack_rows(codes), groups * span), codes)


@pytest.mark.parametrize(("groups", "span"), [(1, 64), (1, 43), (3, 16)])
def test_where_the_bits_of_three_bit_codes_lie(groups: int, span: int) -> None:
    fmt = BlockShift(3, 16, span)
    rows, columns = 21, groups * span
    codes = np.random.default_rng(span).integers(fmt.low, fmt.high + 1, (rows, columns)).astype(np.int8)
    tiles, table = fmt.pack_matrix(codes), fmt.pack_rows(codes)
    inputs, width = groups * -(-span // 16) * 16, -(-columns // 8) * 8
    assert tiles.shape == (2, inputs // 16 + -(-inputs // 32), 16, 4)
    assert table.shape == (rows, width * 3 // 8)
    for n in range(rows):
        for column in range(columns):
            k = column // span * (inputs // groups) + column % span
            pair = tiles[n // 16, k // 16, n % 16, k % 4] >> 2 * (k // 4 % 4) & 3
            single = tiles[n // 16, inputs // 16 + k // 32, n % 16, k % 4] >> k // 4 % 8 & 1
            assert int(pair) + 4 * int(single) - 4 == codes[n, column]
            pair = table[n, column % (width // 4)] >> 2 * (column // (width // 4)) & 3
            single = table[n, width // 4 + column % (width // 8)] >> column // (width // 8) & 1
            assert int(pair) + 4 * int(single) - 4 == codes[n, column]
    if inputs % 32:
        assert not (tiles[:, -1] >> 4).any()
    assert tiles.nbytes + 2 * 16 * fmt.blocks(columns).count == fmt.stored_bytes(rows, columns, table=False)
    assert table.nbytes + rows * fmt.blocks(columns).count == fmt.stored_bytes(rows, columns, table=True)


@pytest.mark.parametrize(("bits", "block"), [(5, 64), (8, 48), (8, "column")])
def test_other_parameters_are_refused(bits: int, block: int | str) -> None:
    with pytest.raises(ValueError, match="BlockShift has no"):
        BlockShift(bits, block)


@pytest.mark.parametrize("bits", [8, 6, 4, 3])
@pytest.mark.parametrize("group", [0, 26])
@pytest.mark.parametrize("part", ["tiles", "rows", "codes"])
def test_a_stored_weight_is_read_back(bits: int, group: int, part: str) -> None:
    fmt = BlockShift(bits, 16, group)
    w = np.random.default_rng(bits).standard_normal((37, 52)).astype(np.float32)
    codes, exponents = fmt.quantize_weights(w)
    parts = {
        "tiles": {"tiles": fmt.pack_matrix(codes), "scales": np.pad(exponents.T, ((0, 0), (0, 11)))},
        "rows": {"rows": fmt.pack_rows(codes), "exponents": exponents},
        "codes": {"codes": codes, "exponents": exponents},
    }[part]
    whole = fmt.dequantize(codes, exponents)
    assert np.array_equal(fmt.restore(parts, w.shape), whole)
    assert np.array_equal(fmt.restore(fmt.rows(parts, 16, 37), (21, 52)), whole[16:])
    assert np.array_equal(fmt.restore(fmt.rows(parts, 16, 32), (16, 52)), whole[16:32])
    assert fmt.agrees(parts, w).all()
    other = w.copy()
    other[20, 5] += 1
    assert np.argwhere(~fmt.agrees(parts, other)).tolist() == [[20, 5]]
    assert stored_format(str(fmt)) == fmt


def test_formats_that_are_not_known() -> None:
    assert stored_format("Ternary(64)") is None
    assert stored_format("BlockShift(5,64)") is None
    assert stored_format("Blocks(1,2)") is None

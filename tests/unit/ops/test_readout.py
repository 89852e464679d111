"""Codes and exponents of an operator's outputs, read back as the tensor they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from bqc.ops import reference
from bqc.ops.readout import read_float

X = np.random.default_rng(0).standard_normal((2, 5, 32)).astype(np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        {"bits": 8, "block": 16, "group": 0},
        {"bits": 8, "block": 64, "group": 8},
        {"bits": 4, "block": 128, "group": 3, "out_bits": 8, "out_block": 16, "out_group": 16},
    ],
)
def test_blocks_of_a_row(attributes: dict[str, int]) -> None:
    block = attributes.get("out_block", attributes["block"])
    group = attributes.get("out_group", attributes["group"])
    codes = reference.block_quantize(X, bits=8, block=block, group=group)
    want = reference.block_dequantize(*codes, block=block, group=group)
    got = read_float(codes, attributes)
    assert got is not None
    assert np.array_equal(got, want)
    assert np.abs(got - X).max() < 0.05


def test_values_have_one_exponent_for_all_tokens() -> None:
    mask = np.ones((2, 5), np.int64)
    outputs = reference.block_quantize_values(X, mask, heads=4, bits=8, block=64)
    assert outputs[1].shape == (2, 4)
    got = read_float(
        outputs, {"bits": 4, "block": 16, "group": 0, "heads": 4, "out_bits": 8, "out_block": 64}
    )
    assert got is not None
    assert np.abs(got - X).max() < 0.05


def test_softmax_codes_floats_and_the_rest() -> None:
    codes = np.array([[[[255, 0], [85, 85]]]], np.uint8)
    got = read_float([codes], {})
    assert got is not None
    assert np.array_equal(got, np.array([[[[1, 0], [0.5, 0.5]]]], np.float32))
    assert read_float([X], {"block": 3}) is X
    assert read_float([codes[0]], {}) is None
    assert read_float([np.zeros((2, 3), np.int64)], {}) is None
    assert read_float([np.zeros((2, 3), np.int8), np.zeros((2, 3), np.int64)], {}) is None

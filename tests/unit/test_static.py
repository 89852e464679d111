"""Static: its text, its codes and zero points, and the operators that it is made with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqc.errors import BqcError
from bqc.formats import Static
from bqc.formats.block_shift import power_of_two
from bqc.ops.constants import FLT_MAX
from bqc.ops.static_reference import static_quantize
from bqc.plan import Plan

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "text",
    ["Static(8)", "Static(4,-3)", "Static(6,0,group=32)", "Static(4,-2.625,min=-0.17)", "Static(8,min=0)"],
)
def test_text(text: str) -> None:
    assert str(Static.parse(text)) == text
    plan = Plan("binarybert", activations={"0:ffn.gelu": Static.parse(text)})
    assert Plan.from_yaml(plan.to_yaml(), "here") == plan


@given(st.floats(-126, 119, width=32))
def test_text_keeps_every_digit_of_an_exponent_in_training(exponent: float) -> None:
    back = Static.parse(str(Static(4, exponent))).exponent
    assert back is not None
    assert np.float32(back) == np.float32(exponent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Static(3)", "no 3-bit codes"),
        ("Static(8,120)", "no exponent 120; it is from -126 to 119"),
        ("Static(8,min=1)", "no minimum 1; it is a number of at most 0"),
        ("Static(8,a)", r"write it like Static\(8,-4\)"),
    ],
)
def test_what_is_no_such_format(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Static.parse(text)
    with pytest.raises(BqcError, match=f"activations: 0:ffn.norm: .*{message}"):
        Plan.from_yaml(f"bqc_recipe: 1\nactivations: {{'0:ffn.norm': '{text}'}}", "here")


def test_weights_have_other_formats() -> None:
    with pytest.raises(BqcError, match=r"weights: 0:ffn.output: 'Static\(8,-4\)' is a format of activations"):
        Plan.from_yaml("bqc_recipe: 1\nweights: {'0:ffn.output': 'Static(8,-4)'}", "here")


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("minimum", [None, -0.17, 0.0])
@pytest.mark.parametrize("exponent", [-6, -3, 0])
def test_error_is_half_a_step_within_the_range(bits: int, minimum: float | None, exponent: int) -> None:
    fmt = Static(bits, exponent, minimum)
    x = RNG.uniform(-0.17 if minimum else 0 if minimum == 0 else -2, 2, (5, 48)).astype(np.float32)
    codes, exponents = fmt.quantize(x)
    assert (exponents == exponent).all()
    step, low, high = 2.0**exponent, -8 if bits == 4 else 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    inside = ((low - fmt.zero - 0.5) * step <= x) & (x <= (high - fmt.zero + 0.5) * step)
    error = np.abs(fmt.dequantize(codes, exponents) - x)
    assert (error[inside] <= step / 2).all()
    assert np.isin(codes[~inside], (low, high)).all()


def test_a_minimum_moves_the_zero_point_as_far_down_as_it_may() -> None:
    assert Static(4, -2).zero == 0
    assert Static(4, -2, -0.17).zero == -7  # -0.17 is -1 step of 0.25
    assert Static(4, -5, -0.17).zero == -3
    assert Static(4, -9, -0.17).zero == 0  # 87 steps: there are not so many below 0
    assert Static(8, -4, 0.0).zero == -127
    codes, _ = Static(4, -2, -0.17).quantize(np.array([[-0.17, 0, 3.5, 9, np.nan]], np.float32))
    assert codes.tolist() == [[-8, -7, 7, 7, -7]]  # NaN is 0


def test_the_offset_is_what_dequantising_takes_away() -> None:
    fmt = Static(6, -3, -0.17)
    x = RNG.standard_normal((4, 20)).astype(np.float32)
    exponent = np.array([-3.4], np.float32)  # rounded
    codes, exponents, offset = static_quantize(x, exponent, bits=6, block=20, group=0, minimum=-0.17)
    np.testing.assert_array_equal(codes, fmt.quantize(x)[0])
    np.testing.assert_array_equal(codes * power_of_two(exponents) - offset, fmt.dequantize(*fmt.quantize(x)))
    assert offset.dtype == np.float32


def test_infinities_and_wild_exponents() -> None:
    x = np.array([[np.inf, -np.inf, np.nan, 1e-40, FLT_MAX]], np.float32)
    for exponent, known in ((np.nan, 0), (np.inf, 119), (-np.inf, -126), (-0.5, 0), (-1.5, -2)):
        given_exponent = np.array([exponent], np.float32)
        codes, exponents, offset = static_quantize(x, given_exponent, bits=8, block=5, group=0, minimum=-0.17)
        assert exponents.tolist() == [[known]]
        assert np.isfinite(offset).all()
        assert codes[0, 0] == 127
        assert codes[0, 1] == -127

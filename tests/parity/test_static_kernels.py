"""Kernels of given scales, at every level and thread count, against the numpy reference, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bqc.ops.constants import FLT_MAX
from bqc.ops.static_reference import static_quantize, static_quantize_values
from tests.parity.test_kernels_against_reference import Maker, check, model, session  # noqa: F401

EXPONENTS = [0.0, -0.5, -2.5, -7.3, 3.49, 119.0, 500.0, -126.0, -1e9, np.nan, np.inf, -np.inf, 1e-42]


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("minimum", [-FLT_MAX, -0.17, 0.0, -0.0, -1e-38, -3.5])
def test_quantize(check: Any, bits: int, minimum: float) -> None:  # noqa: F811
    make = Maker(bits)
    for (columns, block, group), exponent in zip(
        [(768, 768, 0), (384, 64, 32), (5, 5, 0), (78, 16, 26), (1, 1, 0), (3072, 3072, 0)] * 3,
        EXPONENTS,
        strict=False,
    ):
        for lead in ((1,), (0,), (3, 5), (2, 1, 9)):
            x = make.floats(*lead, columns, spread=6.0, hostile=0.2)
            attributes = {"bits": bits, "block": block, "group": group, "minimum": minimum}
            check("StaticQuantize", static_quantize, [x, np.array([exponent], np.float32)], attributes, {1})


@pytest.mark.parametrize("bits", [8, 4])
def test_ties_with_a_zero_point(check: Any, bits: int) -> None:  # noqa: F811
    steps = np.arange(-300, 300, dtype=np.float32) / 2
    x = np.concatenate([steps, np.nextafter(steps, np.float32(9e9)), np.nextafter(steps, np.float32(-9e9))])
    for exponent in (-4, 0, 7):
        inputs = [x[None] * np.float32(2.0**exponent), np.array([exponent], np.float32)]
        attributes = {"bits": bits, "block": 64, "group": 0, "minimum": -0.17}
        check("StaticQuantize", static_quantize, inputs, attributes)


@pytest.mark.parametrize(("hidden", "heads", "block"), [(768, 12, 64), (312, 12, 32), (64, 2, 16)])
def test_quantize_values(check: Any, hidden: int, heads: int, block: int) -> None:  # noqa: F811
    make = Maker(hidden)
    for (batch, length), exponent in zip(((0, 4), (1, 1), (3, 17), (2, 0)), EXPONENTS[2:], strict=False):
        x = make.floats(batch, length, hidden, spread=6.0, hostile=0.05)
        attributes = {"heads": heads, "bits": 4, "block": block}
        inputs = [x, np.array([exponent], np.float32)]
        check("StaticQuantizeValues", static_quantize_values, inputs, attributes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bits": 3}, "attribute bits is 3; it is one of 8, 6, 4"),
        ({"minimum": 0.5}, "attribute minimum is not a number of at most 0"),
        ({"minimum": float("nan")}, "attribute minimum is not finite"),
        ({"group": 5}, "not a whole number of groups of 5"),
        ({"exponent": np.zeros(2, np.float32)}, r"exponent \[2\] should be \[1\]"),
    ],
)
def test_what_is_wrong(changes: dict[str, Any], match: str) -> None:
    x = np.zeros((2, 64), np.float32)
    exponent = changes.pop("exponent", np.zeros(1, np.float32))
    attributes = {"bits": 8, "block": 64, "group": 0, "minimum": -1.0} | changes
    made = [np.zeros((1, 1), np.int8), np.zeros((1, 1), np.int8), np.zeros(1, np.float32)]
    with pytest.raises(Exception, match=match):
        session(model("StaticQuantize", [x, exponent], set(), made, attributes), 1).run(
            None, {"in0": x, "in1": exponent}
        )


def test_values_that_are_no_heads() -> None:
    x, exponent = np.zeros((1, 2, 64), np.float32), np.zeros(1, np.float32)
    made = [np.zeros((1, 1, 1), np.int8), np.zeros((1, 1), np.int8)]
    attributes = {"heads": 5, "bits": 8, "block": 64}
    with pytest.raises(Exception, match="64 columns are not a whole number of 5 heads"):
        session(model("StaticQuantizeValues", [x, exponent], set(), made, attributes), 1).run(
            None, {"in0": x, "in1": exponent}
        )

"""Kernels on signs by signs, at every level and thread count, against the numpy reference, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bqc.ops.registry import OPERATORS
from tests.parity.test_bodies import SIZES
from tests.parity.test_kernels_against_reference import HOSTILE, check  # noqa: F401
from tests.support.op_cases import Case, Sizes, bert_cases

MORE = [
    Sizes(batch=3, length=45, heads=4, width=32, ffn=512, seed=11),  # more than a panel
    Sizes(batch=1, length=1, heads=12, width=64, ffn=3072, out_bits=4, seed=12),
    Sizes(batch=2, length=17, heads=12, width=32, ffn=1536, block=64, out_bits=6, seed=13),
]
CASES = [
    case
    for sizes in (*SIZES, *MORE)
    for case in bert_cases(sizes)
    if case.op.startswith(("Xnor", "Binar")) and OPERATORS[case.op].has_kernel
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits(case: Case, check: Any) -> None:  # noqa: F811
    check(
        case.op,
        OPERATORS[case.op].reference,
        case.inputs,
        {**case.attributes, **case.layout},
        set(case.constants),
    )


def test_signs_of_special_values(check: Any) -> None:  # noqa: F811
    for columns in (1, 7, 8, 33, 64):
        x = np.resize(HOSTILE, (5, columns))
        check("Binarize", OPERATORS["Binarize"].reference, [x], {})
        codes = np.resize(np.arange(-3, 4, dtype=np.int8), (2, 3, columns))
        check("BinarizeCodes", OPERATORS["BinarizeCodes"].reference, [codes], {})


def test_bits_of_padding_are_not_read(check: Any) -> None:  # noqa: F811
    """26 * 2 inputs are 64 in the file and 56 in the bits; what the rest of them hold is nobody's."""
    case = next(c for c in CASES if c.op == "XnorLinear" and c.attributes["columns"] == 52)
    bits, tiles = (np.array(x) for x in case.inputs[:2])
    bits[..., -1] ^= 0xF0
    tiles[:, :, 7] ^= 0xFF
    tiles[:, :, 6] ^= 0xF0
    reference = OPERATORS["XnorLinear"].reference
    inputs = [bits, tiles, *case.inputs[2:]]
    np.testing.assert_array_equal(
        reference(*inputs, **case.attributes), reference(*case.inputs, **case.attributes)
    )
    check("XnorLinear", reference, inputs, {**case.attributes, **case.layout}, set(case.constants))


def test_infinite_biases_and_overflow(check: Any) -> None:  # noqa: F811
    case = next(c for c in CASES if c.op == "XnorLinearBinarize" and c.attributes["columns"] == 52)
    bits, tiles, _, bias = case.inputs
    bias = np.resize(np.array([np.inf, -np.inf, np.nan, -0.0, 0.0, 3e38, 1.0], np.float32), bias.shape)
    for scales in ([3e38], [-3e38], [0.0], [-0.0], [1e-45]):
        inputs = [bits, tiles, np.array(scales, np.float32), bias]
        for op in ("XnorLinear", "XnorLinearBinarize"):
            reference = OPERATORS[op].reference
            check(op, reference, inputs, {**case.attributes, **case.layout}, set(case.constants))

"""Kernels over weights of signs, at every level and thread count, against the numpy reference, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bqc.ops.registry import OPERATORS
from tests.parity.test_bodies import SIZES
from tests.parity.test_kernels_against_reference import check  # noqa: F401
from tests.support.op_cases import Case, Sizes, bert_cases

MORE = [
    Sizes(
        batch=3, length=45, heads=4, width=32, ffn=512, block=2**62, seed=11
    ),  # whole rows, more than a panel
    Sizes(batch=1, length=1, heads=12, width=64, ffn=3072, block=2**62, out_bits=4, seed=12),
    Sizes(batch=2, length=17, heads=12, width=32, ffn=1536, block=64, out_bits=6, seed=13),
]
CASES = [
    case
    for sizes in (*SIZES, *MORE)
    for case in bert_cases(sizes)
    if case.op.startswith("Sign") and OPERATORS[case.op].has_kernel
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


def test_bits_of_padding_are_not_read(check: Any) -> None:  # noqa: F811
    """26 inputs a head are 32 in the file; what the rest of them hold is nobody's."""
    case = next(c for c in CASES if c.op == "SignLinear" and c.attributes["group"] == 26)
    inputs = list(case.inputs)
    tiles = np.array(inputs[2])
    tiles[:, :, 1::2, 1] |= 0xF0  # of the second tile of a head, inputs 28 to 31
    tiles[:, :, 1::2, 0] |= 0xF0  # and 24 to 27, of which 24 and 25 are real
    tiles[:, :, 1::2, 0] ^= 0xC0
    real = (tiles & 0x30) == (np.array(inputs[2]) & 0x30)
    tiles = np.where(real, tiles, (tiles & 0xCF) | (np.array(inputs[2]) & 0x30)).astype(np.uint8)
    tiles[:, :, 0::2] = inputs[2][:, :, 0::2]
    inputs[2] = tiles
    reference = OPERATORS["SignLinear"].reference
    np.testing.assert_array_equal(
        reference(*inputs, **case.attributes), reference(*case.inputs, **case.attributes)
    )
    check("SignLinear", reference, inputs, {**case.attributes, **case.layout}, set(case.constants))

"""Kernels over N:M-sparse weights, at every level and thread count, against the numpy reference, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bqc.ops.registry import OPERATORS
from tests.parity.test_bodies import SIZES
from tests.parity.test_kernels_against_reference import check  # noqa: F401
from tests.parity.test_sign_kernels import MORE
from tests.support.op_cases import Case, bert_cases

CASES = [
    case
    for sizes in (*SIZES, *MORE)
    for case in bert_cases(sizes)
    if case.op.startswith("Sparse") and OPERATORS[case.op].has_kernel
]


def test_every_pattern_has_cases() -> None:
    patterns = {(case.attributes["kept"], case.attributes["of"]) for case in CASES}
    assert patterns == {(2, 4), (1, 4), (2, 8), (4, 8)}
    assert {case.attributes["bits"] for case in CASES} == {8, 4}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits(case: Case, check: Any) -> None:  # noqa: F811
    check(
        case.op,
        OPERATORS[case.op].reference,
        case.inputs,
        {**case.attributes, **case.layout},
        set(case.constants),
    )


def test_codes_of_padding_count_nothing(check: Any) -> None:  # noqa: F811
    """26 inputs a head are 32 in the file; codes that stand at the others meet activations of 0."""
    case = next(c for c in CASES if c.op == "SparseLinear" and c.attributes["group"] == 26)
    inputs, attributes = list(case.inputs), case.attributes
    assert (attributes["kept"], attributes["of"], attributes["bits"]) == (2, 4, 8)
    tiles = np.array(inputs[2])
    codes = tiles[:, : tiles.shape[1] // 80 * 64].reshape(
        len(tiles), -1, 4, 16, 4
    )  # strip, head, step, output, slot
    codes[:, :, 3, :, 2:] = 200  # inputs 28 to 31
    inputs[2] = tiles
    assert (tiles != case.inputs[2]).any()
    reference = OPERATORS["SparseLinear"].reference
    np.testing.assert_array_equal(reference(*inputs, **attributes), reference(*case.inputs, **attributes))
    check("SparseLinear", reference, inputs, {**attributes, **case.layout}, set(case.constants))

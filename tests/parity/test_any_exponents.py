"""Exponents that no quantiser makes: bodies and kernels of every level do the same with them as the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bqc.formats.block_shift import power_of_two
from bqc.ops.registry import OPERATORS
from tests.parity.test_kernels_against_reference import check  # noqa: F401
from tests.support.op_cases import Case, Sizes, bert_cases, expected, feeds, model, same_bits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of sums and products that overflow

SIZES = [Sizes(), Sizes(batch=3, length=33, heads=2, width=32, ffn=96, block=64, seed=21)]


def exponents(case: Case) -> list[int]:
    """Places of the exponents that a call brings along."""
    names = OPERATORS[case.op].inputs
    return [i for i, n in enumerate(names) if n.endswith("exponents") and i not in case.constants]


def with_any_exponents(case: Case) -> Case:
    """The same with all that int8 holds, -127 and -128 often."""
    rng = np.random.default_rng(len(case.op))
    for i in exponents(case):
        shape = case.inputs[i].shape
        odd = rng.choice(np.array([-128, -127, -126, -125, 126, 127], np.int8), shape)
        case.inputs[i] = np.where(rng.random(shape) < 0.3, odd, rng.integers(-128, 128, shape)).astype(
            np.int8
        )
    return case


CASES = [with_any_exponents(case) for sizes in SIZES for case in bert_cases(sizes) if exponents(case)]


def test_what_is_below_the_table_is_looked_up_from_its_end() -> None:
    np.testing.assert_array_equal(
        power_of_two(np.array([-126, -127, -128])), np.ldexp(np.float32(1), [-126, 127, 126])
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body(case: Case) -> None:
    session = ort.InferenceSession(model(case).SerializeToString(), providers=["CPUExecutionProvider"])
    for i, (got, want) in enumerate(zip(session.run(None, feeds(case)), expected(case), strict=True)):
        assert same_bits(np.asarray(got), want), f"output {i} differs"


@pytest.mark.parametrize("case", [c for c in CASES if OPERATORS[c.op].has_kernel], ids=str)
def test_kernels(case: Case, check: Any) -> None:  # noqa: F811
    check(
        case.op,
        OPERATORS[case.op].reference,
        case.inputs,
        {**case.attributes, **case.layout},
        set(case.constants),
    )

"""Biases and norms in fp16: kernels, function bodies and numpy agree byte for byte, as they do in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bqc.formats.half import to_half
from bqc.ops.registry import OPERATORS
from tests.parity.test_kernels_against_reference import check  # noqa: F401
from tests.support.op_cases import Case, Sizes, bert_cases, expected, feeds, model, same_bits

SIZES = [
    Sizes(batch=2, length=5, heads=2, width=32, ffn=100, seed=31),
    Sizes(batch=1, length=3, heads=3, width=26, ffn=33, seed=32),
]
PARAMETERS = {"bias", "gamma", "beta"}


def narrowed(case: Case) -> Case:
    """The case with its biases, factors and terms in fp16, subnormal and largest numbers among them."""
    names = OPERATORS[case.op].inputs
    edges = np.array([2.0**-24, -(2.0**-14), 65504, -0.0], np.float16)
    inputs = list(case.inputs)
    for i, name in enumerate(names):
        if name in PARAMETERS:
            inputs[i] = to_half(inputs[i])
            inputs[i][: len(edges)] = edges[: inputs[i].size]
    return Case(case.op, inputs, case.attributes, case.constants, layout=case.layout, label=case.label)


CASES = [
    narrowed(case)
    for sizes in SIZES
    for case in bert_cases(sizes)
    if PARAMETERS & {*OPERATORS[case.op].inputs} and OPERATORS[case.op].has_kernel and case.op != "LayerNorm"
]


def test_they_are_of_every_operator_that_takes_them() -> None:
    wanted = {name for name, operator in OPERATORS.items() if PARAMETERS & {*operator.inputs}} - {"LayerNorm"}
    assert {case.op for case in CASES} == wanted


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits(case: Case, check: Any) -> None:  # noqa: F811
    attributes = {**case.attributes, **case.layout}
    check(case.op, OPERATORS[case.op].reference, case.inputs, attributes, set(case.constants))
    session = ort.InferenceSession(model(case).SerializeToString(), providers=["CPUExecutionProvider"])
    with np.errstate(all="ignore"):
        wanted = expected(case)
    for body, numpy in zip(session.run(None, feeds(case)), wanted, strict=True):
        assert same_bits(np.asarray(body), numpy)

"""Function bodies equal the numpy reference bit for bit, in ONNX Runtime and in ONNX's own evaluator."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from tests.support.op_cases import Case, Sizes, bert_cases, expected, feeds, model, same_bits

SIZES = [
    Sizes(),
    Sizes(batch=1, length=1, heads=3, width=32, ffn=312, bits=4, block=64, seed=1),
    Sizes(batch=3, length=7, heads=2, width=40, ffn=48, bits=6, block=32, seed=2, spread=12),
    Sizes(batch=0, length=4, seed=3),
    Sizes(batch=2, length=6, heads=2, width=26, ffn=40, bits=2, block=16, seed=7),
    Sizes(batch=2, length=5, heads=2, width=26, ffn=40, bits=3, block=16, seed=9),
    Sizes(batch=3, length=33, heads=1, width=64, ffn=33, bits=8, block=256, out_bits=6, seed=4),
    Sizes(batch=1, length=512, heads=1, width=16, ffn=16, bits=8, block=16, seed=6),
    Sizes(batch=1, length=3, heads=2, width=8, ffn=20, bits=6, block=16, out_bits=4, seed=5),
]
CASES = [case for sizes in SIZES for case in bert_cases(sizes)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_in_onnxruntime(case: Case) -> None:
    session = ort.InferenceSession(model(case).SerializeToString(), providers=["CPUExecutionProvider"])
    for i, (got, want) in enumerate(zip(session.run(None, feeds(case)), expected(case), strict=True)):
        assert same_bits(np.asarray(got), want), f"output {i} differs"


@pytest.mark.parametrize("case", [c for s in (SIZES[0], SIZES[2], SIZES[5]) for c in bert_cases(s)], ids=str)
def test_body_in_reference_evaluator(case: Case) -> None:
    got = ReferenceEvaluator(model(case)).run(None, feeds(case))
    for i, (a, b) in enumerate(zip(got, expected(case), strict=True)):
        assert same_bits(np.asarray(a), b), f"output {i} differs"

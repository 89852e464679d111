"""Kernels over fp16 weights and indices, at every level and thread count, against numpy, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import bqc
from bqc.formats.strips import pack_strips
from bqc.ops import half_reference
from bqc.ops.registry import OPERATORS
from bqc.runtime.native import native
from bqc.runtime.nodes import node_runs
from tests.parity.test_bodies import SIZES
from tests.parity.test_kernels_against_reference import check  # noqa: F401
from tests.support.op_cases import Case, Sizes, bert_cases, feeds, model, same_bits

MORE = [
    Sizes(batch=3, length=45, heads=4, width=32, ffn=512, seed=11),  # more than a panel
    Sizes(batch=1, length=1, heads=12, width=64, ffn=3072, seed=12),
    Sizes(batch=1, length=2, heads=12, width=32, ffn=1536, seed=13),
    Sizes(batch=1, length=3, heads=12, width=26, ffn=100, seed=14),
    Sizes(batch=2, length=65, heads=2, width=32, ffn=33, seed=15),
]
CASES = [
    case
    for sizes in (*SIZES, *MORE)
    for case in bert_cases(sizes)
    if case.op.startswith(("Half", "Index")) and OPERATORS[case.op].has_kernel
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


EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)]


def around_halves() -> np.ndarray[Any, Any]:
    """Every fp16 number and every middle of two, with the float32 on either side."""
    wide = np.sort(np.unique(FINITE.astype(np.float32)))
    middles = (wide[1:] + wide[:-1]) / 2
    at = np.concatenate([wide, middles])
    return np.concatenate([at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))])


def test_rounding_everywhere(check: Any) -> None:  # noqa: F811
    x = around_halves()
    check("HalfRound", half_reference.half_round, [x], {})
    case = Case("HalfRound", [x], {})
    session = ort.InferenceSession(model(case).SerializeToString(), providers=["CPUExecutionProvider"])
    assert same_bits(np.asarray(session.run(None, feeds(case))[0]), half_reference.half_round(x))


def test_every_half_is_read(check: Any) -> None:  # noqa: F811
    rows = FINITE.reshape(-1, 31)
    ids = np.arange(len(rows))
    check("HalfGather", half_reference.half_gather, [ids, rows], {"columns": 31, "layout": "row"}, {1})


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_products_of_the_extremes(rows: int, check: Any) -> None:  # noqa: F811
    """Of the smallest and largest fp16 numbers, and sums that cancel: the body multiplies, then adds; kernels fuse."""
    rng = np.random.default_rng(3)
    extremes = np.array([2.0**-24, 2.0**-14 - 2.0**-24, 2.0**-14, 1 + 2.0**-10, 2047, 65504, 0], np.float16)
    extremes = np.concatenate([extremes, -extremes])
    x = rng.choice(extremes, (rows, 90)).astype(np.float32)
    weight = pack_strips(rng.choice(extremes, (20, 90)))
    bias = rng.choice(np.array([0, -0.0, 1e-45, 3.4e38, -3.4e38], np.float32), 20)
    case = Case("HalfLinear", [x, weight, bias], {}, (1, 2), layout={"layout": "n16"})
    check("HalfLinear", half_reference.half_linear, case.inputs, case.layout, {1, 2})
    session = ort.InferenceSession(model(case).SerializeToString(), providers=["CPUExecutionProvider"])
    assert same_bits(np.asarray(session.run(None, feeds(case))[0]), half_reference.half_linear(*case.inputs))


@pytest.mark.skipif("avx512_bf16" not in native().cpu_features(), reason="the CPU has no AVX512_BF16")
@pytest.mark.parametrize("op", ["HalfLinear", "IndexLinear"])
def test_bfloat16_is_asked_for(op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is close to the definition, is named, and does not come unasked."""
    for at, case in enumerate(case for case in CASES if case.op == op):
        path = tmp_path / f"{at}.onnx"
        onnx.save(model(case), path)
        monkeypatch.setenv("BQC_FP16_ARITHMETIC", "bf16")
        (run,) = [run for run in node_runs(path).nodes if run.op_type == op]
        (close,) = bqc.session(path, strict=True).run(None, feeds(case))
        monkeypatch.delenv("BQC_FP16_ARITHMETIC")
        (exact,) = bqc.session(path, strict=True).run(None, feeds(case))
        assert run.by.startswith("vdpbf16ps")
        assert run.reason == "BQC_FP16_ARITHMETIC=bf16"
        assert same_bits(exact, OPERATORS[op].reference(*case.inputs, **case.attributes))
        sizes = [np.abs(value) if value.dtype.kind == "f" else value for value in case.inputs]
        bound = 2**-6.5 * OPERATORS[op].reference(*sizes, **case.attributes)
        assert np.all(np.abs(close - exact) <= bound)

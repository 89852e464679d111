"""From a trace to rows, and multiply-accumulates from shapes."""

from __future__ import annotations

from typing import Any

import pytest

from bqc.bench.macs import arithmetic, macs
from bqc.bench.profiling import summarize


def node(
    name: str, op: str, ts: int, dur: int, inputs: list[list[int]], outputs: list[list[int]], index: int
) -> dict[str, Any]:
    shapes = {
        key: [{"float": shape} for shape in value]
        for key, value in (("input_type_shape", inputs), ("output_type_shape", outputs))
    }
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": ts,
        "dur": dur,
        "args": {"op_name": op, "node_index": str(index), **shapes},
    }


def run(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


TRACE = [
    {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9, "args": {}},
    # A warm-up run of ten times the time.
    node("q", "MatMul", 100, 5000, [[2, 8, 64], [64, 32]], [[2, 8, 32]], 0),
    run(100, 9000),
    node("q", "MatMul", 10000, 600, [[2, 8, 64], [64, 32]], [[2, 8, 32]], 0),
    node("k", "MatMul", 10600, 200, [[2, 8, 64], [64, 32]], [[2, 8, 32]], 1),
    node("s", "Softmax", 10800, 100, [[2, 8, 8]], [[2, 8, 8]], 2),
    {**node("q", "MatMul", 10000, 7, [], [], 0), "name": "q_fence_before"},
    run(10000, 1000),
    node("q", "MatMul", 20000, 400, [[2, 8, 64], [64, 32]], [[2, 8, 32]], 0),
    node("k", "MatMul", 20400, 400, [[2, 8, 64], [64, 32]], [[2, 8, 32]], 1),
    node("s", "Softmax", 20800, 100, [[2, 8, 8]], [[2, 8, 8]], 2),
    run(20000, 1000),
]


def test_only_the_last_runs_count() -> None:
    found = summarize(TRACE, 2, {}, {"fp32": 0.1})
    assert found.milliseconds == 1.0
    assert found.between == pytest.approx(0.1)
    product, softmax = found.operators
    assert (product.name, product.nodes, product.milliseconds) == ("MatMul", 2, pytest.approx(0.8))
    assert product.macs == 2 * (2 * 8 * 64 * 32)
    assert product.gmacs == pytest.approx(product.macs / 0.8e-3 / 1e9)
    assert product.of_peak == pytest.approx(product.gmacs / 0.1)
    assert (softmax.name, softmax.macs, softmax.gmacs, softmax.of_peak) == ("Softmax", 0, 0.0, None)
    assert softmax.share == pytest.approx(0.1)
    assert found.roles == []


def test_roles_are_those_of_labelled_nodes() -> None:
    found = summarize(TRACE, 2, {"q": "attention.query", "s": "attention.softmax"}, {})
    assert [(row.name, row.nodes) for row in found.roles] == [
        ("attention.query", 1),
        ("attention.softmax", 1),
    ]
    assert found.roles[0].of_peak is None


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "expected"),
    [
        ("MatMul", [[4, 12, 16, 32], [4, 12, 32, 16]], [[4, 12, 16, 16]], 4 * 12 * 16 * 16 * 32),
        ("Gemm", [[4, 384], [384, 2], [2]], [[4, 2]], 4 * 384 * 2),
        ("BlockLinearGelu", [[1, 16, 384], [1, 16, 6], [96, 96, 16, 4]], [[1, 16, 1536]], 16 * 384 * 1536),
        (
            "XnorLinearBinarize",
            [[2, 16, 48], [96, 6, 8, 16], [1], [1536]],
            [[2, 16, 192]],
            2 * 16 * 384 * 1536,
        ),
        ("BlockAttention", [[2, 16, 384], [2, 16, 12]], [[2, 16, 384]], 2 * 2 * 16 * 16 * 384),
        ("FloatAttention", [[2, 16, 384]] * 3 + [[2, 16]], [[2, 16, 384]], 2 * 2 * 16 * 16 * 384),
        (
            "RaggedFloatAttention",
            [[32, 384], [32, 384], [32, 384], [32], [3]],
            [[32, 384]],
            2 * 2 * 16 * 16 * 384,
        ),
        ("BlockScores", [[2, 16, 384], [2, 16, 12]], [[2, 12, 16, 16]], 2 * 16 * 16 * 384),
        ("BlockContext", [[2, 12, 16, 16], [2, 16, 384]], [[2, 16, 384]], 2 * 16 * 16 * 384),
        (
            "Attention",
            [[2, 16, 384], [384, 1152]],
            [[2, 16, 384]],
            2 * 16 * 384 * 1152 + 2 * 2 * 16 * 16 * 384,
        ),
        ("MultiHeadAttention", [[2, 16, 384], [2, 16, 384]], [[2, 16, 384]], 2 * 2 * 16 * 16 * 384),
        ("Softmax", [[2, 16]], [[2, 16]], 0),
    ],
)
def test_macs(operator: str, inputs: list[list[int]], outputs: list[list[int]], expected: int) -> None:
    assert macs(operator, inputs, outputs) == expected
    assert (arithmetic(operator) is None) == (expected == 0)


def test_signs_by_signs_are_measured_against_counts_of_bits() -> None:
    assert arithmetic("XnorLinear") == "bits"
    assert arithmetic("SignLinear") == "int8"

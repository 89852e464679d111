"""`bqc reduce`: what is left is small, valid, and fails in the same way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from bqc.cli import main
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.synthetic import canonical_bert
from bqc.ir.text import from_text
from bqc.pipeline.checks import Failure
from bqc.pipeline.trial import evaluate, make_feeds, snapshot
from bqc.reduce import reduce
from bqc.reduce.edits import alike, bypassed, only, resized, sizes
from bqc.reduce.search import _ddmin

TINY = {"layers": 2, "hidden": 16, "heads": 2, "ffn": 24}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ir.save(canonical_bert(**TINY), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


class IsEncoder:
    """Bad are models in which an encoder is found whole: none of its nodes can go alone."""

    def failure(self, model: ir.Model, done: Sequence[ir.passes.InPlacePass] = ()) -> Failure | None:
        try:
            _, found = import_model(snapshot(model))
        except BqcError:
            return None
        return None if found.encoder.float_parts else Failure("encoder", str(found.encoder))


def test_layers_and_sizes_go_where_nodes_cannot(tmp_path: Path) -> None:
    ir.save(canonical_bert(**TINY), tmp_path / "model.onnx")
    found = reduce(tmp_path / "model.onnx", IsEncoder(), tmp_path / "small.onnx")
    _, summary = import_model(tmp_path / "small.onnx")
    encoder = summary.encoder
    assert encoder.layers == 1
    assert (encoder.heads, encoder.ffn, encoder.vocab) == (1, 1, 1)
    assert encoder.hidden <= 2
    assert found.nodes[1] < found.nodes[0] / 2
    small = ir.load(tmp_path / "small.onnx")
    assert evaluate(small, make_feeds(small))


class NeedsBoth:
    """Bad are models with these two operators, the second reading the first at some distance."""

    def __init__(self, first: str, second: str) -> None:
        self.wanted = {first, second}

    def failure(self, model: ir.Model, done: Sequence[ir.passes.InPlacePass] = ()) -> Failure | None:
        if len({id(v) for v in model.graph.outputs}) > 1:
            return Failure("outputs", "more than one output")
        return Failure("both", "both") if self.wanted <= {n.op_type for n in model.graph} else None


def test_what_lies_between_is_bypassed(model: Path, tmp_path: Path) -> None:
    found = reduce(model, NeedsBoth("Softmax", "Tanh"), tmp_path / "small.onnx")
    small = onnx.load(found.path)
    onnx.checker.check_model(small, full_check=True)
    left = [node.op_type for node in small.graph.node]
    assert {"Softmax", "Tanh"} <= set(left)
    assert len(left) < 12, left
    assert (found.nodes[1], found.failure) == (len(left), "both")
    assert found.repeats > 0


@pytest.mark.parametrize("needed", [{3}, {0, 9}, {2, 3, 7}, set(range(10))], ids=str)
def test_ddmin_finds_what_is_needed(needed: set[int]) -> None:
    assert set(_ddmin(list(range(10)), lambda kept: needed <= set(kept), 10)) == needed


def test_only_some_nodes() -> None:
    model = canonical_bert(**TINY)
    ops = [node.op_type for node in model.graph]
    at = ops.index("Softmax")
    small = only(model, {at, at + 1})
    assert small is not None
    assert [node.op_type for node in small.graph] == ["Softmax", "MatMul"]
    assert len(small.graph.inputs) == 2
    assert len(small.graph.outputs) == 1
    assert evaluate(small, make_feeds(small))
    assert [node.op_type for node in model.graph] == ops
    assert only(model, set()) is None


def test_what_subgraphs_take_from_outside_becomes_an_input() -> None:
    model = from_text(
        """<ir_version: 9, opset_import: ["" : 17]> captures (bool c, float[2] x) => (float[2] y) {
        float[2] r = Abs(x)
        float[2] z = If(c) <then_branch = yes () => (float[2] t) { t = Relu(r) },
                            else_branch = no () => (float[2] e) { e = Neg(r) }>
        y = Exp(z)
        }"""
    )
    small = only(model, {1})
    assert small is not None
    assert [value.name for value in small.graph.inputs] == ["c", "r"]
    onnx.checker.check_model(ir.to_proto(small), full_check=True)


def test_values_alike_can_be_bypassed() -> None:
    model = canonical_bert(**TINY)
    hidden = max(alike(model), key=len)
    small = bypassed(model, hidden[-1], hidden[0])
    assert small is not None
    assert len(small.graph) < len(model.graph) / 2
    assert evaluate(small, make_feeds(small))["logits"].shape == (2, 2)


def test_sizes_change_everywhere() -> None:
    model = canonical_bert(**TINY)
    every, named = sizes(model)
    assert (every[:2], named) == ([100, 64], [16, 8, 2])
    small = resized(model, {16: 8, 2: 1})
    assert evaluate(small, make_feeds(small))["logits"].shape == (2, 1)


def test_a_command_must_end_alike(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.onnx"
    # Without a Gelu the check itself is broken, which is another failure.
    command = """sh -c 'grep -q Gelu "$0" || exit 7; grep -q Softmax "$0" && exit 5; exit 0'"""
    assert main(["reduce", str(model), "--check", command, "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema_version"] == 1
    assert sorted(node.op_type for node in onnx.load(out).graph.node) == ["Gelu", "Softmax"]
    assert report["failure"] == "the check ended with status 5"


def test_the_result_as_text(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = ["--check", """sh -c '! grep -q Softmax "$0"'"""]
    out = tmp_path / "small.onnxtxt"
    assert main(["reduce", str(model), *check, "-o", str(out), "-q"]) == 0
    small = from_text(out.read_text())
    assert [node.op_type for node in small.graph] == ["Softmax"]
    assert evaluate(small, make_feeds(small))
    assert main(["reduce", str(model), *check, "-o", "-"]) == 0
    printed = capsys.readouterr()
    assert printed.out == out.read_text()
    assert "nodes" in printed.err
    assert main(["reduce", str(model), *check, "-o", "-", "--json"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --check, or --passes or --scheme"),
        (["-p", "fold-gelu", "--check", "true"], "give either --check, or --passes or --scheme"),
        (["--check", "true"], "the check finds nothing wrong with the model"),
        (["-p", "import-gelu"], "the check finds nothing wrong with the model"),
        (["--check", "/no/such/tool"], "cannot be run"),
    ],
)
def test_bad_calls(
    model: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reduce", str(model), "-o", str(tmp_path / "small.onnx"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "small.onnx").exists()
    assert main(["reduce", str(model), "-o", str(model), "--check", "false"]) == 2
    assert "overwrite the input" in capsys.readouterr().err

"""`bqc bisect`: passes and rewrites, checks by command, and calls that cannot be answered."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
import pytest

from bqc.bisect import bisect
from bqc.cli import main
from bqc.errors import BqcError
from bqc.ir.synthetic import canonical_bert
from bqc.opt import scheme_pipeline
from bqc.pipeline import parse, run, watching
from bqc.pipeline.checks import Failure
from tests.support.seeded import install

TINY = {"layers": 2, "hidden": 16, "heads": 2, "ffn": 24}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ir.save(canonical_bert(**TINY), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@dataclass
class AtMost:
    """Good are models of at most so many nodes of an operator."""

    operator: str
    count: int
    seen: list[int] = field(default_factory=list)

    def failure(self, model: ir.Model, done: Sequence[ir.passes.InPlacePass] = ()) -> Failure | None:
        self.seen.append(sum(node.op_type == self.operator for node in model.graph))
        return Failure("many", f"{self.seen[-1]} {self.operator}") if self.seen[-1] > self.count else None


@pytest.mark.parametrize(
    ("operator", "count", "by", "where"),
    [
        ("BlockQuantize", 0, "quantize-activations", "embedding:embedding.norm"),
        ("BlockLinearAddNorm", 2, "fold-layernorm", "1:attention.norm"),
        ("BlockLinearGelu", 1, "fold-gelu", "1:ffn.gelu"),
        ("Tanh", 0, "", ""),
    ],
)
def test_every_rewrite_of_the_scheme_can_be_found(
    model: Path, operator: str, count: int, by: str, where: str
) -> None:
    check = AtMost(operator, count)
    if not by:
        with pytest.raises(BqcError, match=r"fails on the model as it is, before any pass: 1 Tanh"):
            bisect(model, scheme_pipeline("bbct"), check)
        return
    found = bisect(model, scheme_pipeline("bbct"), check)
    assert found.culprit is not None
    assert found.culprit.rewrite is not None
    assert (found.culprit.by, found.culprit.rewrite.where) == (by, where)
    assert found.culprit.failure == f"{count + 1} {operator}"
    assert found.checks == len(check.seen) < 12
    again = ir.load(model)
    for limit, good in ((found.culprit.rewrite.index - 1, True), (found.culprit.rewrite.index, False)):
        with watching(limit=limit):
            run(again := ir.load(model), scheme_pipeline("bbct"))
        assert (check.failure(again) is None) == good


def test_parts_of_a_pass_are_found(model: Path) -> None:
    class NoLabels:
        def failure(self, model: ir.Model, done: Sequence[ir.passes.InPlacePass] = ()) -> Failure | None:
            made = [node for node in model.graph if node.metadata_props.get("bqc.pass") == "import-attention"]
            return Failure("made", "made") if made else None

    found = bisect(model, parse("import-canonicalize,annotate-anatomy"), NoLabels())
    assert found.culprit is not None
    assert (found.culprit.by, found.culprit.within) == ("import-attention", ("import-canonicalize",))
    assert found.culprit.number == (1, 2)


def test_a_good_pipeline(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bisect", str(model), "--scheme", "bbct", "--until", "pack-weights"]) == 0
    assert "good after all" in capsys.readouterr().out
    assert main(["bisect", str(model), "-p", "import-gelu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["culprit"] is None


def test_a_pass_that_raises(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, tmp_path / "site")
    pipeline = "annotate-sensitivity,spell-softmax{wrong_layer=1 raises=true}"
    assert main(["bisect", str(model), "-p", pipeline, "-o", str(tmp_path / "found")]) == 1
    assert capsys.readouterr().out.startswith("spell-softmax: it raises KeyError: 'ffn'")
    assert [path.name for path in (tmp_path / "found").glob("*.onnx")] == ["good.onnx"]


def script(folder: Path, text: str) -> str:
    path = folder / "check.py"
    path.write_text(
        f"import sys, onnx\nnodes = onnx.load(sys.argv[1]).graph.node\n{text}\n", encoding="utf-8"
    )
    return f"{sys.executable} {path}"


def test_a_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = script(tmp_path, "sys.exit(3 * (sum(n.op_type == 'BlockDequantizeTiles' for n in nodes) > 1))")
    for form in (check, f"{check} {{}}"):
        assert (
            main(["bisect", str(model), "--scheme", "bbct", "--until", "pack-weights", "--check", form]) == 1
        )
        out = capsys.readouterr().out
        assert "pack-weights at Transpose" in out
        assert "number 5 of 17 of the pass: the check ended with status 3" in out
        assert "--rewrite-limit" in out


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("sys.exit(1)", [], "fails on the model as it is, before any pass: the check ended with status 1"),
        ("import time; time.sleep(9)", ["--check-timeout", "0.5"], "the check took more than 0.5 s"),
    ],
)
def test_checks_that_fail_on_the_original(
    text: str,
    options: list[str],
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bisect", str(model), "-p", "import-gelu", "--check", script(tmp_path, text), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --passes or --scheme"),
        (["-p", "fold-glue"], "did you mean fold-gelu?"),
        (["-p", "fold-gelu,"], "column 11: expected the name of a pass"),
        (["-p", "fold-gelu", "--check", "/no/such/tool"], "/no/such/tool cannot be run: no such file"),
        (["-p", "fold-gelu", "--check", "/tmp"], "/tmp cannot be run: permission denied"),
        (["-p", "fold-gelu", "--check", "'x"], "no closing quotation"),
        (["-p", "fold-gelu", "--check", " "], "--check is empty"),
        (["-p", "fold-gelu", "--check-timeout", "1"], "goes with --check"),
        (["-p", "quantize-weights"], "no plan"),
        (["--until", "fold-gelu"], "--until goes with"),
    ],
)
def test_bad_calls(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bisect", str(model), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "unexpected" not in err


def test_broken_models(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-100])
    for verb in (["bisect"], ["reduce", "-o", str(tmp_path / "small.onnx")]):
        assert main([*verb, str(cut), "-p", "import-gelu"]) == 2
        assert "truncated" in capsys.readouterr().err
        assert main([*verb, str(cycle(tmp_path / "cycle.onnx")), "-p", "import-gelu"]) == 2
        assert "cycle" in capsys.readouterr().err


def cycle(path: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "b")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])), path)
    return path

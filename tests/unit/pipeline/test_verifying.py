"""`--verify-each`: every rule is broken once, by a pass that does nothing else, and what holds is let through."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bqc.cli import main
from bqc.contract import Contract, contract_of, together
from bqc.errors import BqcError, Finding
from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, nodes_of
from bqc.ir.rewrite import drop_dead
from bqc.ir.synthetic import canonical_bert
from bqc.opt import scheme_pipeline
from bqc.passes import names, pass_class
from bqc.pipeline import run, watching
from bqc.pipeline.verifying import VerifyEach
from tests.support.seeded import install

EXACT = Contract("exact")
TINY = {"layers": 2, "hidden": 16, "heads": 2, "ffn": 24}


@dataclass(frozen=True)
class Changed(ir.passes.InPlacePass):
    """Does to the model what a test wants."""

    change: Callable[[ir.Model], None]
    contract: Contract = EXACT

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.change(model)
        return ir.passes.PassResult(model, True)


def renamed_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "scores"


def retyped_output(model: ir.Model) -> None:
    model.graph.outputs[0].shape = ir.Shape(["n", 2])


def lost_label(model: ir.Model) -> None:
    del next(nodes_of(model, "1", "ffn.output")).metadata_props[ROLE_KEY]


def lost_layer(model: ir.Model) -> None:
    first = next(nodes_of(model, "1", "attention.query")).inputs[0]
    last = next(n for n in nodes_of(model, "1", "ffn.norm") if n.op_type == "LayerNormalization")
    assert first is not None
    last.outputs[0].replace_all_uses_with(first)
    for item in (*nodes_of(model, "1"), *model.graph.initializers.values()):
        if item.metadata_props.get(LAYER_KEY) == "1":
            item.metadata_props.clear()
    drop_dead(model)


def twice_the_name(model: ir.Model) -> None:
    a, b = list(model.graph)[10:12]
    b.outputs[0].name = a.outputs[0].name


def backwards(model: ir.Model) -> None:
    node = model.graph[-1]
    model.graph.remove(node)
    model.graph.insert_before(model.graph[0], node)


def wrong_type(model: ir.Model) -> None:
    gelu = next(n for n in model.graph if n.op_type == "Gelu")
    gelu.outputs[0].type = ir.TensorType(ir.DataType.INT64)


def unknown_operator(model: ir.Model) -> None:
    gelu = next(n for n in model.graph if n.op_type == "Gelu")
    gelu.domain, gelu.op_type = "ai.bqc", "Glue"


def scaled(factor: float) -> Callable[[ir.Model], None]:
    def change(model: ir.Model) -> None:
        bias = model.graph.initializers["classifier.weight"]
        assert bias.const_value is not None
        bias.const_value = ir.tensor(bias.const_value.numpy() * np.float32(factor))

    return change


def other_axis(model: ir.Model) -> None:
    softmax = next(n for n in nodes_of(model, "1") if n.op_type == "Softmax")
    softmax.attributes["axis"] = ir.AttrInt64("axis", -2)


def wrong_width(model: ir.Model) -> None:
    bias = model.graph.initializers["classifier.bias"]
    bias.const_value, bias.shape = ir.tensor(np.zeros(3, np.float32)), ir.Shape([3])


def crash(model: ir.Model) -> None:
    raise KeyError("ffn")


def verified(change: Callable[[ir.Model], None], folder: Path, contract: Contract = EXACT) -> None:
    with watching([VerifyEach(reproducers=folder)]):
        run(canonical_bert(**TINY), [Changed(change, contract)])


def test_a_finding_is_not_lost_where_nothing_can_be_written() -> None:
    with pytest.raises(
        Finding, match=r"outputs are scores, and were logits; nothing is left that shows it: "
    ):
        verified(renamed_output, Path("/dev/null/reproducer"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed_output, "outputs are scores, and were logits"),
        (retyped_output, r"output logits is FLOAT \['n', 2\], and was FLOAT \['batch', 2\]"),
        (lost_label, "node .* lost its labels 1:ffn.output"),
        (lost_layer, "no node is labelled 1:.* and nothing took its place in layer 1"),
        (twice_the_name, "unique value names: 2 values are called"),
        (backwards, "topological order: node .* stands before"),
        (wrong_type, "valid ONNX: the ONNX checker says"),
        (unknown_operator, "operators of ai.bqc: there is no operator Glue"),
        (wrong_width, "valid ONNX: the ONNX checker says|ONNX Runtime ran the model before it"),
        (scaled(1 + 1e-6), "output logits: bits changed, by up to .*; the pass promises exact"),
        (other_axis, "output logits: "),
        (crash, "it raised KeyError: 'ffn'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_rule_finds_what_breaks_it(
    change: Callable[[ir.Model], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(Finding, match=rf"^changed: ({message})") as found:
        verified(change, tmp_path / "repro")
    assert str(tmp_path / "repro" / "README.md") in str(found.value)
    assert {path.name for path in (tmp_path / "repro").iterdir()} >= {
        "model.onnx",
        "inputs.npz",
        "pipeline.txt",
        "README.md",
    }
    onnx.checker.check_model(str(tmp_path / "repro" / "model.onnx"))


@pytest.mark.parametrize(
    ("contract", "small", "large"),
    [
        (Contract("ulp"), 1 + 1e-5, 1 + 1e-3),
        (Contract("lossy", cosine_min=0.9), 0.5, -1.0),
    ],
    ids=str,
)
def test_a_contract_leaves_room_and_no_more(
    contract: Contract, small: float, large: float, tmp_path: Path
) -> None:
    verified(scaled(small), tmp_path, contract)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Finding, match="output logits: it"):
        verified(scaled(large), tmp_path, contract)


def test_what_did_not_hold_before_is_not_asked(tmp_path: Path) -> None:
    model = canonical_bert(**TINY)
    twice_the_name(model)
    with watching([VerifyEach(reproducers=tmp_path)]):
        run(model, [Changed(lambda _: None)])


def test_the_users_own_mistake_is_no_finding(tmp_path: Path) -> None:
    def refuse(model: ir.Model) -> None:
        raise BqcError("no plan")

    with pytest.raises(BqcError, match=r"^no plan$"):
        verified(refuse, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sizes",
    [{}, {"gelu": "tanh", "head": "none"}, {"mask": False, "token_types": False}, {"hidden": 26, "heads": 1}],
    ids=str,
)
def test_the_scheme_keeps_every_contract(sizes: dict[str, object], tmp_path: Path) -> None:
    verify = VerifyEach(reproducers=tmp_path)
    with watching([verify]):
        run(canonical_bert(**{**TINY, **sizes}), scheme_pipeline("bbct"))  # type: ignore[arg-type]
    assert verify.checked > 12


@pytest.mark.parametrize("name", names())
def test_every_pass_states_a_contract(name: str) -> None:
    assert contract_of(pass_class(name)) is not None


def test_contracts() -> None:
    lossy = Contract("lossy", cosine_min=0.9)
    assert str(lossy) == "lossy (cosine 0.9)"
    assert together([]) == together([Contract("exact")]) == Contract("exact")
    assert together([Contract("exact"), Contract("ulp")]) == Contract("ulp")
    assert together([lossy, Contract("ulp"), Contract("lossy", cosine_min=0.8)]).cosine_min == 0.8
    assert together([lossy, None]).cosine_min == -1
    for wrong in ({"numerics": "lossy"}, {"numerics": "ulp", "cosine_min": 0.5}):
        with pytest.raises(ValueError, match="has a bound"):
            Contract(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("raises", [False, True])
def test_the_command_of_a_reproducer_shows_it_again(
    raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, tmp_path / "site")
    ir.save(canonical_bert(**TINY), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    seeded = f"spell-softmax{{wrong_layer=1{' raises=true' if raises else ''}}}"
    arguments = ["-p", f"import-canonicalize,annotate-anatomy,{seeded}", "--verify-each"]
    assert main(["opt", "model.onnx", *arguments]) == 1
    first = capsys.readouterr().err
    assert first.startswith("bqc: error: spell-softmax: ")
    assert main(["opt", "model.onnx", *arguments, "--json"]) == 1
    assert (tmp_path / "bqc-repro-spell-softmax-2").is_dir()
    capsys.readouterr()
    monkeypatch.chdir("bqc-repro-spell-softmax")
    (line,) = (
        x for x in Path("README.md").read_text(encoding="utf-8").splitlines() if x.startswith("    bqc ")
    )
    assert main(shlex.split(line)[1:]) == 1
    again = capsys.readouterr().err
    assert again.partition(";")[0] == first.partition(";")[0]


def test_options_of_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    ir.save(canonical_bert(**TINY), path)
    assert main(["opt", str(path), "-p", "import-gelu", "--repro-dir", "x"]) == 2
    assert "go with --verify-each" in capsys.readouterr().err
    assert main(["opt", str(path), "-p", "import-gelu", "--verify-each", "--verify-inputs", str(path)]) == 2
    assert "not a readable .npz" in capsys.readouterr().err
    np.savez(tmp_path / "some.npz", input_ids=np.ones((1, 4), np.int64))
    some = ["--verify-each", "--verify-inputs", str(tmp_path / "some.npz")]
    assert main(["opt", str(path), "-p", "annotate-sensitivity", *some]) == 2
    assert "lacks attention_mask, token_type_ids" in capsys.readouterr().err
    assert main(["compile", str(path), "--verify-each", "--stats", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"import-gelu", "fold-gelu"} <= {row["pass"] for row in report["watched"]}

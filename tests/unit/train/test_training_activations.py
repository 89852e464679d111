"""Training with static scales, and with ReLU in the FFNs."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from bqc.cli import main  # noqa: E402
from bqc.ir import encoder, import_model  # noqa: E402
from bqc.plan import Plan  # noqa: E402
from bqc.train.prepared import default_recipe, prepare  # noqa: E402
from bqc.train.recipe import Recipe  # noqa: E402
from bqc.train.training import train  # noqa: E402
from tests.support.trainable import TASK, both_logits, write_trainable  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `write_trainable` makes it."""
    return write_trainable(tmp_path_factory.mktemp("train"))


@pytest.mark.parametrize("by", ["option", "stage"])
def test_an_ffn_with_relu_is_trained_and_written(folder: Path, tmp_path: Path, by: str) -> None:
    options: dict[str, Any] = {"activation_bits": 4, "block": 64}
    if by == "option":
        options["ffn_activation"] = "relu"
    first: dict[str, Any] = {"name": "layers", "losses": {"hidden": 1, "scores": 1}, "learning_rate": 2e-3}
    if by == "stage":
        first["passes"] = ["relu-ffn"]
    last = {"name": "split", "losses": {"logits": 1}, "learning_rate": 2e-3, "passes": ["split-ternary"]}
    recipe = Recipe.checked({"stages": [first, last], "batch_size": 16, "dropout": 0.0}, "recipe")
    out = tmp_path / "small.onnx"
    result = train(
        folder / "model.onnx", TASK, folder, out, scheme="binarybert", options=options, recipe=recipe
    )
    np.testing.assert_array_equal(*both_logits(folder, out, result.module))
    written = ir.load(out)
    operators = Counter(node.op_type for node in written.graph)
    assert operators["SignLinearRelu"] == encoder(written).relus == 2
    assert not [name for name in operators if "Gelu" in name or name == "Relu"]


@pytest.mark.parametrize(("weights", "learn"), [("split", "lsq"), ("binary", "pact"), ("binary", "none")])
def test_static_scales_are_trained_and_written(
    folder: Path, tmp_path: Path, weights: str, learn: str
) -> None:
    options = {"weights": weights, "activations": "static", "activation_bits": 4}
    asked = {"epochs": 1, "learning_rate": 2e-3, "batch_size": 16, "learn": learn, "scale_learning_rate": 0.1}
    recipe = default_recipe("binarybert", options, **asked)
    runs = []
    for name in ("whole", "again"):
        out = tmp_path / f"{name}.onnx"
        more = {"options": options, "recipe": recipe, "checkpoints": tmp_path / "run"}
        runs.append(
            train(
                folder / "model.onnx", TASK, folder, out, scheme="binarybert", **more, resume=name == "again"
            )
        )
        np.testing.assert_array_equal(*both_logits(folder, out, runs[-1].module))
        last = len(recipe.stages) - 1
        for leftover in (tmp_path / "run" / f"{last}-{recipe.stages[-1].name}").iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    assert runs[0].metrics == runs[1].metrics
    plans = [Plan.of(ir.load(run.paths[0])) for run in runs]
    assert plans[0] == plans[1]
    net = runs[0].module
    steps = {}
    for name, point in net.scales.items():
        value = float(net.parameter(name).detach())
        assert plans[0].activations[point].exponent == round(value)
        steps[point] = value - round(value)
    if learn == "none":
        assert not any(steps.values())
    elif learn == "lsq":
        assert all(steps.values())
    begun = prepare(import_model(folder / "model.onnx")[0], "binarybert", options)
    assert set(begun.plan.unscaled) == set(steps)


def test_static_scales_settle(folder: Path, tmp_path: Path) -> None:
    options = {"weights": "binary", "activations": "static", "activation_bits": 4}
    asked = {"scheme": "binarybert", "options": options, "limit": 32}
    found = {}
    for steps in (0.0, 0.5, 1.0):
        recipe = Recipe.checked(
            {
                "stages": [{"name": "a", "losses": {"logits": 1}, "epochs": 4, "learning_rate": 1e-3}],
                **{"batch_size": 8, "dropout": 0.0, "warmup": 0.0, "learn_steps": steps},
            },
            "here",
        )
        net = train(
            folder / "model.onnx",
            TASK,
            folder,
            tmp_path / "out.onnx",
            recipe=recipe,
            **asked,
        ).module
        found[steps] = torch.cat([net.parameter(name).detach() for name in net.scales])
    assert torch.equal(found[0.0], found[0.0].round())
    assert not torch.equal(found[0.5], found[0.0])
    assert not torch.equal(found[0.5], found[1.0])


def test_a_rule_for_static_scales_may_go_with_a_recipe(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(Recipe.two_stage(epochs=1).to_yaml(), encoding="utf-8")
    asked = ["train", str(folder / "model.onnx"), "--scheme", "binarybert", "--weights", "binary"]
    asked += ["--activations", "static", "--task", "mrpc", "--data", str(folder), "--limit", "16", "--json"]
    asked += ["--recipe", str(tmp_path / "r.yaml"), "--learn", "pact", "-o", str(tmp_path / "out.onnx")]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["learn"] == "pact"
    assert Recipe.read(tmp_path / "r.yaml").learn == "lsq"

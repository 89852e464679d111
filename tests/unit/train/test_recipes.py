"""Training recipes and options that are not quite right."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("torch")

from bqc.errors import BqcError
from bqc.train.prepared import default_recipe
from bqc.train.recipe import Recipe
from bqc.train.training import train

STAGE = "bqc_training: 1\nstages:\n  - name: a\n    losses: {labels: 1}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{STAGE}batchsize: 3\n",
            r"unknown key 'batchsize'; did you mean batch_size\? \(keys: stages, .*, seed\)",
        ),
        (f"{STAGE}xyz: 3\n", r"unknown key 'xyz' \(keys: stages"),
        (
            f"{STAGE}    learning_rte: 1\n",
            r"stages\.0: unknown key 'learning_rte'; did you mean learning_rate\?",
        ),
        (
            STAGE.replace("labels", "label"),
            r"stages\.0\.losses: unknown key 'label'; did you mean labels\? \(keys: labels",
        ),
        (f"{STAGE}seed: 1\nseed: 2\n", "'seed' is there twice, the second time in line 6"),
        (f"{STAGE}    epochs: .inf\n", r"stages\.0\.epochs: Input should be a finite number"),
        (f"{STAGE}    learning_rate: .inf\n", r"stages\.0\.learning_rate: Input should be a finite number"),
        (f"{STAGE}temperature: .nan\n", "temperature: Input should be a finite number"),
    ],
)
def test_wrong_recipes(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BqcError, match=message):
        Recipe.read(path)


def test_an_unknown_scheme_hears_of_all_that_can_be_trained() -> None:
    with pytest.raises(BqcError, match=r"unknown scheme 'xyz'; known: bbct, binarybert.*, none"):
        default_recipe("xyz")


def test_scores_are_not_those_of_a_slim_model() -> None:
    options = {"budget_mib": 1.0, "scores": "s.json"}
    with pytest.raises(BqcError, match="scores are of one model, and --width makes another"):
        train("x.onnx", "sst2", scheme="binarybert", options=options, width=0.5)

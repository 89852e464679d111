"""Importances of heads and neurons against what taking them away does to the loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

from bqc.errors import BqcError  # noqa: E402
from bqc.evaluate.data import load_examples  # noqa: E402
from bqc.evaluate.tasks import find_task  # noqa: E402
from bqc.evaluate.tokens import TextEncoder  # noqa: E402
from bqc.ir import encoder, import_model  # noqa: E402
from bqc.passes._blocks import Layer, layers_of  # noqa: E402
from bqc.passes.slim_width import IMPORTANCE_KEY, SlimWidth  # noqa: E402
from bqc.train import module  # noqa: E402
from bqc.train.importance import measure_importance  # noqa: E402
from bqc.train.recipe import Losses, Recipe, Stage  # noqa: E402
from tests.support.families import Cell, exported  # noqa: E402
from tests.support.tiny_encoder import write_tokenizer  # noqa: E402
from tests.support.tiny_task import write_answers, write_bert, write_tags  # noqa: E402

ROWS = 12
HEADS, FFN = 4, 48


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"), rows=ROWS, heads=HEADS, ffn=FFN)


class Truth:
    """The loss of each row, one at a time and unpadded in float64, as a function of factors of rows of a weight."""

    def __init__(self, path: Path) -> None:
        self.model, _ = import_model(path)
        task = find_task("sst2")
        examples = load_examples(task, path.parent, "train")
        self.features = task.features(examples, TextEncoder(path.parent, 128))
        self.network = module(self.model).double()

    def losses(self, weight: ir.Value, factors: np.ndarray) -> np.ndarray:
        """With the weight's rows multiplied."""
        parameter = self.network.parameter(weight.name or "")
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(torch.from_numpy(factors)[:, None])
            found = [self._loss(row) for row in range(len(self.features))]
            parameter.copy_(kept)
        return np.array(found)

    def _loss(self, row: int) -> float:
        ids = torch.tensor([self.features.encodings[row].ids])
        feeds = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": torch.zeros_like(ids),
        }
        target = torch.tensor([int(self.features.targets[row])])
        return float(torch.nn.functional.cross_entropy(self.network(**feeds)["logits"], target))


def stored(node: ir.Node) -> np.ndarray:
    return np.array(json.loads(node.metadata_props[IMPORTANCE_KEY]))


def parts(one: Layer) -> list[tuple[ir.Value, ir.Node, int]]:
    """The weight that leads out, the node with the importances, and the rows of each part."""
    attention = one.attention
    return [
        (attention.output.weight, attention.softmax, attention.head_dim),
        (one.ffn.outer.weight, one.ffn.activation, 1),
    ]


def ranks(numbers: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(numbers))


def rows_of(weight: ir.Value) -> int:
    assert weight.const_value is not None
    return int(weight.const_value.shape.numpy()[0])


def test_it_is_the_derivative_of_the_loss(path: Path) -> None:
    """Mean over rows of |dL/df| for a factor f of what a head or neuron gives, by central differences."""
    truth, measured = Truth(path), measure_importance(path, "sst2", path.parent)
    step = 1e-4
    for mine, one in zip(layers_of(measured), layers_of(truth.model), strict=True):
        for (weight, _, size), (_, node, _) in zip(parts(one), parts(mine), strict=True):
            for part in range(4):
                both = []
                for sign in (1, -1):
                    factors = np.ones(rows_of(weight))
                    factors[part * size : (part + 1) * size] += sign * step
                    both.append(truth.losses(weight, factors))
                slope = np.abs(both[0] - both[1]).mean() / (2 * step)
                assert stored(node)[part] == pytest.approx(slope, rel=2e-3, abs=1e-8)


def test_it_ranks_as_taking_away_does(path: Path) -> None:
    """Rank correlation with the mean change of the rows' losses, over all heads and over a layer's neurons."""
    truth, measured = Truth(path), measure_importance(path, "sst2", path.parent)
    changes: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for mine, one in zip(layers_of(measured), layers_of(truth.model), strict=True):
        for kind, ((weight, _, size), (_, node, _)) in enumerate(zip(parts(one), parts(mine), strict=True)):
            whole = truth.losses(weight, np.ones(rows_of(weight)))
            for part, score in enumerate(stored(node)):
                factors = np.ones(rows_of(weight))
                factors[part * size : (part + 1) * size] = 0
                changes[kind].append((score, np.abs(truth.losses(weight, factors) - whole).mean()))
    for found in changes.values():
        scores, true = np.array(found).T
        assert np.corrcoef(ranks(scores), ranks(true))[0, 1] > 0.9


def test_batches_do_not_matter(path: Path) -> None:
    one, other = (measure_importance(path, "sst2", path.parent, batch_size=size) for size in (1, 7))
    for mine, theirs in zip(layers_of(one), layers_of(other), strict=True):
        for (_, a, _), (_, b, _) in zip(parts(mine), parts(theirs), strict=True):
            np.testing.assert_allclose(stored(a), stored(b), rtol=1e-3, atol=1e-8)


def test_the_rows_are_drawn_by_the_seed(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = measure_importance(
        path, "sst2", path.parent, limit=5, seed=3, batch_size=2, progress=lambda *done: seen.append(done)
    )
    assert model.metadata_props[IMPORTANCE_KEY] == "5 random rows of SST-2 train, seed 3"
    assert seen == [(2, 5), (4, 5), (5, 5)]
    again, other = (measure_importance(path, "sst2", path.parent, limit=5, seed=seed) for seed in (3, 4))
    scores = [[*map(stored, (one.attention.softmax, one.ffn.activation))] for one in layers_of(model)]
    for found, same in ((again, True), (other, False)):
        close = [
            np.allclose(one, stored(node), rtol=1e-3)
            for mine, theirs in zip(scores, layers_of(found), strict=True)
            for one, node in zip(mine, (theirs.attention.softmax, theirs.ffn.activation), strict=True)
        ]
        assert all(close) == same
    whole = measure_importance(path, "sst2", path.parent, limit=None)
    assert whole.metadata_props[IMPORTANCE_KEY] == f"all {ROWS} rows of SST-2 train"


def test_a_measured_model_is_saved_and_slimmed(path: Path, tmp_path: Path) -> None:
    model = measure_importance(path, "sst2", path.parent)
    ir.save(model, tmp_path / "measured.onnx")
    loaded = ir.load(tmp_path / "measured.onnx")
    best = [sorted(np.argsort(-stored(one.attention.softmax))[:2]) for one in layers_of(model)]
    kept = [stored(one.attention.softmax)[chosen] for one, chosen in zip(layers_of(model), best, strict=True)]
    SlimWidth(0.5, "stored")(loaded)
    assert encoder(loaded).heads == 2
    for scores, one in zip(kept, layers_of(loaded), strict=True):
        assert np.array_equal(stored(one.attention.softmax), scores)
    # A slim model can be measured again.
    again = measure_importance(loaded, "sst2", path.parent, folder=path.parent)
    assert again is loaded
    assert [len(stored(one.attention.softmax)) for one in layers_of(again)] == [2, 2]


@pytest.mark.parametrize(
    ("head", "task", "write"),
    [("tokens", "conll03", write_tags), ("question-answering", "squad", write_answers)],
)
def test_tags_and_answers(head: str, task: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "model.onnx").write_bytes(exported("torchscript", Cell("bert", head)).read_bytes())
    write(tmp_path)
    a, b = (measure_importance(tmp_path / "model.onnx", task, tmp_path, batch_size=size) for size in (32, 5))
    for mine, theirs in zip(layers_of(a), layers_of(b), strict=True):
        assert stored(mine.attention.softmax).min() > 0
        np.testing.assert_allclose(
            stored(mine.ffn.activation), stored(theirs.ffn.activation), rtol=1e-2, atol=1e-6
        )


def test_relu(tmp_path: Path) -> None:
    path = write_bert(tmp_path, rows=4)
    model = ir.load(path)
    for gelu in [node for node in model.graph if node.op_type == "Gelu"]:
        gelu.op_type = "Relu"
        gelu.attributes.clear()
    ir.save(model, path)
    measured = measure_importance(path, "sst2", tmp_path)
    assert stored(layers_of(measured)[0].ffn.activation).max() > 0


def test_a_score_of_a_pair(tmp_path: Path) -> None:
    """STS-B: the squared error."""
    path = write_bert(tmp_path, rows=1, labels=1)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    folder = tmp_path / "glue" / "STS-B"
    folder.mkdir()
    lines = ["\t".join(["x"] * 7 + ["sentence1", "sentence2", "score"])]
    lines += ["\t".join([str(i)] * 7 + ["good film", "bad film", f"{i}.5"]) for i in range(4)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    measured = measure_importance(path, "stsb", tmp_path)
    assert stored(layers_of(measured)[1].attention.softmax).min() > 0


def test_a_slim_student_learns_from_its_wide_teacher(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from bqc.train.training import train

    for name in ("config.json", "tokenizer.json"):
        shutil.copy(path.with_name(name), tmp_path)
    model = measure_importance(path, "sst2", path.parent)
    SlimWidth(0.5)(model)
    slim = tmp_path / "slim.onnx"
    ir.save(model, slim)

    def recipe(**losses: float) -> Recipe:
        stage = Stage(name="one", losses=Losses(**losses), epochs=1)
        return Recipe(stages=(stage,), batch_size=4)

    result = train(
        slim, "sst2", path.parent, tmp_path / "out.onnx", teacher=path, recipe=recipe(hidden=1, logits=1)
    )
    written = ir.load(result.paths[0])
    # Numbers that nothing reads any more are not in a compiled file.
    assert not [node for node in written.graph if IMPORTANCE_KEY in node.metadata_props]
    trained = encoder(written)
    assert (trained.heads, trained.hidden, trained.ffn) == (2, 32, 32)
    for losses, said in (
        ({"scores": 1.0}, "scores of 2 and 4 heads cannot be compared"),
        ({"values": 1.0}, "values of width 16 and 32 cannot be compared: leave out the loss values"),
    ):
        with pytest.raises(BqcError, match=said):
            train(slim, "sst2", path.parent, tmp_path / "no.onnx", teacher=path, recipe=recipe(**losses))


def test_errors(path: Path, tmp_path: Path) -> None:
    model, _ = import_model(path)
    with pytest.raises(BqcError, match="has no tokenizer beside it: give the folder"):
        measure_importance(model, "sst2", path.parent)
    bare = write_bert(tmp_path, head="none")
    with pytest.raises(BqcError, match="train a classification model"):
        measure_importance(bare, "sst2", tmp_path)
    weight = layers_of(model)[0].ffn.outer.weight
    assert weight.const_value is not None
    weight.const_value = ir.Tensor(np.full_like(weight.const_value.numpy(), np.nan), name=weight.name)
    with pytest.raises(BqcError, match="the loss of a batch is nan"):
        measure_importance(model, "sst2", path.parent, folder=path.parent)

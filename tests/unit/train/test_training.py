"""The loop on a tiny encoder: what it writes is what it trained, and it survives what happens to runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from bqc.cli import main  # noqa: E402
from bqc.errors import BqcError  # noqa: E402
from bqc.evaluate.data import load_examples  # noqa: E402
from bqc.evaluate.tokens import TextEncoder  # noqa: E402
from bqc.ir import encoder, import_model, load  # noqa: E402
from bqc.plan import Plan  # noqa: E402
from bqc.train.distillation import layer_map, logits_loss  # noqa: E402
from bqc.train.examples import LengthGroups, Rows  # noqa: E402
from bqc.train.module import OnnxModule  # noqa: E402
from bqc.train.prepared import default_recipe, prepare  # noqa: E402
from bqc.train.recipe import RECIPE_KEY, Recipe  # noqa: E402
from bqc.train.training import train  # noqa: E402
from tests.support.families import Cell, exported  # noqa: E402
from tests.support.trainable import TASK, both_logits, write_trainable  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `write_trainable` makes it."""
    return write_trainable(tmp_path_factory.mktemp("train"))


RECIPE = Recipe.two_stage(epochs=1, learning_rate=2e-3, batch_size=16)


def test_groups_of_rows_have_similar_lengths_in_an_order_of_seed_and_epoch(folder: Path) -> None:
    rows = Rows(TASK, load_examples(TASK, folder, "train"), TextEncoder(folder, 128))
    sampler = LengthGroups(rows, 8, seed=1)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert sorted(first) == list(range(96))
    sampler.set_epoch(1)
    assert list(sampler) != first
    lengths = np.array(rows.lengths)
    padded = lengths[first].reshape(-1, 8).max(1).sum()
    shuffled = np.random.default_rng(0).permutation(lengths).reshape(-1, 8).max(1).sum()
    assert lengths.sum() / 8 <= padded < shuffled


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_the_written_model_computes_what_was_trained(folder: Path, tmp_path: Path, bits: int) -> None:
    options = {"weight_bits": bits, "embedding_bits": 8}
    out = tmp_path / "out.onnx"
    result = train(folder / "model.onnx", TASK, folder, out, options=options, recipe=RECIPE)
    ours, theirs = both_logits(folder, out, result.module)
    np.testing.assert_array_equal(ours, theirs)
    start = import_model(folder / "model.onnx")[0]
    before = OnnxModule.initializers(_untrained(start))
    changed = result.module.initializers()
    assert any(not torch.equal(changed[name], value) for name, value in before.items())
    stored = {p.key: p.value for p in onnx.load(out, load_external_data=False).metadata_props}
    assert "name: layers" in stored[RECIPE_KEY]
    assert stored["bqc.scheme"] == "bbct"


def _untrained(model: Any) -> OnnxModule:
    from bqc.train import module

    return module(model)


def test_float_fine_tuning_learns_and_writes_a_float_model(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text('{"hidden_dropout_prob": 0.1}', encoding="utf-8")
    recipe = Recipe.fine_tuning(epochs=8, learning_rate=3e-3, batch_size=16, dropout=0.0)
    result = train(folder / "model.onnx", TASK, folder, f"{tmp_path}/", scheme="none", recipe=recipe)
    out = tmp_path / "model.tuned.onnx"
    assert result.paths[0] == out
    assert (tmp_path / "tokenizer.json").is_file()
    assert result.metrics["accuracy"] > 0.8
    ours, theirs = both_logits(folder, out, result.module)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert not any(node.domain for node in onnx.load(out).graph.node)


def test_logs_lie_beside_the_checkpoints(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    runs = tmp_path / "runs"
    recipe = Recipe.fine_tuning(1, 1e-3, dropout=0.0, batch_size=16)
    out = tmp_path / "out.onnx"
    train(folder / "model.onnx", TASK, folder, out, scheme="none", recipe=recipe, limit=32, checkpoints=runs)
    logs = {path.parent.relative_to(runs).as_posix() for path in runs.rglob("events.out.tfevents*")}
    assert logs == {"logs", "0-labels/logs"}
    assert not list(here.iterdir())


def test_accumulated_batches_train_like_one_larger_batch(folder: Path, tmp_path: Path) -> None:
    trained = []
    for size, accumulate in ((16, 1), (8, 2)):
        recipe = Recipe.fine_tuning(1, 1e-3, dropout=0.0, batch_size=size, accumulate=accumulate)
        out = tmp_path / f"{size}.onnx"
        result = train(folder / "model.onnx", TASK, folder, out, scheme="none", recipe=recipe, limit=64)
        trained.append(result.module.initializers())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, atol=2e-4, rtol=1e-3)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For runs whose weights are compared with those of processes in ENVIRONMENT."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_a_process(arguments: list[str], *launcher: str) -> list[str]:
    """The command line; what need not be killed or launched is run in this process, which has imported torch."""
    return [sys.executable, *launcher, "-m", "bqc.cli", *arguments]


def passed(folder: Path, step: int) -> bool:
    """Whether a checkpoint of this step, or of a later one, is there."""
    return any(int(path.name.split("-")[1]) >= step for path in folder.glob("checkpoint-*"))


def verb(folder: Path, run: Path, *, grouped: bool) -> list[str]:
    """Two stages of two epochs of five steps, with a checkpoint after every other step; what is written is in `run`."""
    run.mkdir(exist_ok=True)
    stages = Recipe.two_stage(epochs=2, learning_rate=2e-3, batch_size=8, group_by_length=grouped)
    (run / "recipe.yaml").write_text(stages.to_yaml(), encoding="utf-8")
    return [
        *("train", str(folder / "model.onnx"), "--task", "mrpc", "--data", str(folder), "--limit", "40"),
        *("--recipe", str(run / "recipe.yaml"), "--weight-bits", "4", "--save-steps", "2", "-q"),
        *("--checkpoints", str(run / "checkpoints"), "-o", str(run / "out.onnx")),
    ]


def same_files(one: Path, other: Path) -> bool:
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("out.onnx", "out.onnx.data")
    )


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(folder: Path, tmp_path: Path, one_thread: None) -> None:
    whole, run = tmp_path / "whole", tmp_path / "killed"
    assert main(verb(folder, whole, grouped=False)) == 0
    arguments = verb(folder, run, grouped=False)
    killed = subprocess.Popen(in_a_process(arguments), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    stage = run / "checkpoints" / "0-layers"
    deadline = time.monotonic() + 300
    while not passed(stage, 6):  # in the second epoch
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (run / "out.onnx").exists()
    (stage / "checkpoint-99").mkdir()  # what a kill while writing leaves
    assert main([*arguments, "--resume"]) == 0
    assert same_files(whole, run)


@pytest.mark.slow
def test_groups_of_rows_are_the_same_after_a_run_was_resumed(folder: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "again"
    assert main(verb(folder, whole, grouped=True)) == 0
    # What a kill in the second epoch leaves.
    last = Path("checkpoints", "0-layers", "checkpoint-8")
    shutil.copytree(whole / last, run / last)
    shutil.copy(whole / "checkpoints" / "run.yaml", run / "checkpoints")
    assert main([*verb(folder, run, grouped=True), "--resume"]) == 0
    assert same_files(whole, run)
    # It went on from there: what makes a checkpoint again writes this file.
    before, after = ((one / last / "trainer_state.json").stat().st_mtime_ns for one in (whole, run))
    assert before == after


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_doubled_batch(
    folder: Path, tmp_path: Path, one_thread: None
) -> None:
    recipe = Recipe.fine_tuning(epochs=2, learning_rate=1e-3, dropout=0.0, batch_size=8)
    for name, size in (("two", 8), ("one", 16)):
        text = recipe.model_copy(update={"batch_size": size}).to_yaml()
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")

    def arguments(name: str) -> list[str]:
        return [
            *(
                "train",
                str(folder / "model.onnx"),
                "--scheme",
                "none",
                "--task",
                "mrpc",
                "--data",
                str(folder),
            ),
            *("--recipe", str(tmp_path / f"{name}.yaml"), "-q"),
            *("--checkpoints", str(tmp_path / name), "-o", str(tmp_path / f"{name}.onnx")),
        ]

    assert main(arguments("one")) == 0
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29571")
    subprocess.run(
        in_a_process(arguments("two"), *launcher), check=True, env=ENVIRONMENT, capture_output=True
    )
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 1
    np.testing.assert_allclose(one, two, rtol=1e-3)
    weights = [onnx.load(tmp_path / f"{name}.onnx").graph.initializer for name in ("one", "two")]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b), atol=1e-3)


def losses(folder: Path) -> list[float]:
    """The losses that a run logged."""
    last = max(folder.glob("0-*/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_a_run_that_diverges_in_its_last_step_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.fine_tuning(epochs=1, learning_rate=1e38, batch_size=64, dropout=0.0, warmup=0.0)
    with pytest.raises(
        BqcError,
        match=r"^after training: .* holds NaN .*; lower the learning rate, with another folder",
    ):
        train(folder / "model.onnx", TASK, folder, tmp_path / "out.onnx", recipe=recipe, limit=16)
    assert not (tmp_path / "out.onnx").exists()


def test_a_diverging_run_stops_and_names_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.fine_tuning(epochs=4, learning_rate=1e30, batch_size=16, dropout=0.0, warmup=0.0)
    out = tmp_path / "out.onnx"
    with pytest.raises(
        BqcError, match=r"stage labels, step \d+: .* is (nan|inf|not finite).*; lower the learning rate"
    ):
        train(
            folder / "model.onnx", TASK, folder, out, recipe=recipe, checkpoints=tmp_path / "c", save_steps=1
        )
    assert not out.exists()
    for checkpoint in (tmp_path / "c").glob("*/checkpoint-*"):
        from safetensors.torch import load_file

        assert all(
            torch.isfinite(value).all() for value in load_file(checkpoint / "model.safetensors").values()
        )


def test_bad_inputs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = str(folder / "model.onnx"), str(folder)

    def fails(*arguments: str) -> str:
        assert main(["train", *arguments]) == 2
        return capsys.readouterr().err

    assert "the model has 2 outputs and STS-B needs 1" in fails(model, "--task", "stsb", "--data", data)
    assert "which is not there" in fails(model, "--task", "sst2", "--data", data)
    assert "the task needs one output a token" in fails(model, "--task", "conll03", "--data", data)
    assert "--checkpoints" in fails(model, "--task", "mrpc", "--data", data, "--resume")
    empty = tmp_path / "glue" / "MRPC"
    empty.mkdir(parents=True)
    (empty / "train.tsv").write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", encoding="utf-8")
    assert "no rows" in fails(model, "--task", "mrpc", "--data", str(tmp_path))
    (empty / "train.tsv").write_text("a\tb\n1\n", encoding="utf-8")
    assert "not a MRPC row" in fails(model, "--task", "mrpc", "--data", str(tmp_path))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("bqc_training: 1\nstages: []\n", encoding="utf-8")
    assert "stages" in fails(model, "--task", "mrpc", "--data", data, "--recipe", str(recipe))
    assert "leave out --epochs" in fails(
        model, "--task", "mrpc", "--data", data, "--recipe", str(recipe), "--epochs", "1"
    )
    recipe.write_text("bqc_training: 1\nstages: [{name: a, losses: {label: 1}}]\n", encoding="utf-8")
    assert "stages.0.losses: unknown key 'label'" in fails(
        model, "--task", "mrpc", "--data", data, "--recipe", str(recipe)
    )


def test_recipes_round_trip(tmp_path: Path) -> None:
    recipe = Recipe.two_stage(epochs=2, temperature=2.0, frozen=("embedding.word",), seed=3)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.read(path) == recipe
    assert recipe.teacher
    assert not Recipe.fine_tuning().teacher
    with pytest.raises(BqcError, match="options: recipe: patience needs keep_best: true"):
        Recipe.fine_tuning(patience=2)


def test_layer_maps() -> None:
    assert layer_map(3, 12) == (3, 7, 11)
    assert layer_map(2, 2) == (0, 1)
    assert layer_map(2, 12, (0, 11)) == (0, 11)
    with pytest.raises(BqcError, match="12 layers of the teacher do not divide into 5"):
        layer_map(5, 12)
    with pytest.raises(BqcError, match=r"must name a layer in 0\.\.11 for 2 layers"):
        layer_map(2, 12, (0, 12))


def test_logits_loss_is_the_cross_entropy_of_soft_targets() -> None:
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -0.5]])
    targets = np.exp([0.25, -0.25]) / np.exp([0.25, -0.25]).sum()
    logged = np.log(np.exp([0.5, 1.0]) / np.exp([0.5, 1.0]).sum())
    assert float(logits_loss(student, teacher, 2.0)) == pytest.approx(-4 * (targets * logged).sum(), rel=1e-6)


def test_prepare_keeps_weights_float(folder: Path) -> None:
    prepared = prepare(import_model(folder / "model.onnx")[0], "bbct", {"weight_bits": 4})
    operators = {node.op_type for node in prepared.graph.graph if node.domain}
    assert operators == {
        "BlockQuantize", "BlockDequantize", "BlockQuantizeValues", "MaskedSoftmax", "SoftmaxDequantize",
    }  # fmt: skip
    assert not any(node.domain for node in prepared.model.graph)
    assert str(prepared.plan.weights["0:ffn.output"]) == "BlockShift(4,64)"
    with pytest.raises(BqcError, match="scheme bbct has no option 'bits'"):
        prepare(import_model(folder / "model.onnx")[0], "bbct", {"bits": 4})


@pytest.mark.slow
def test_a_deeper_and_wider_teacher(folder: Path, tmp_path: Path) -> None:
    changes = (("num_hidden_layers", 4), ("hidden_size", 96))
    teacher = exported("torchscript", Cell("bert", "classification", changes=changes))
    out = tmp_path / "out.onnx"
    train(folder / "model.onnx", TASK, folder, out, recipe=RECIPE, teacher=teacher, limit=32)
    assert out.is_file()
    other = exported("torchscript", Cell("bert", "classification", changes=(("num_labels", 3),)))
    with pytest.raises(BqcError, match="the teacher has 3 outputs, the student 2"):
        train(folder / "model.onnx", TASK, folder, out, recipe=RECIPE, teacher=other)


@pytest.mark.parametrize("weights", ["split", "binary", "two-plane"])
def test_signs_are_trained_and_written(folder: Path, tmp_path: Path, weights: str) -> None:
    options = {"weights": weights, "block": 64}
    recipe = default_recipe("binarybert", options, epochs=1, learning_rate=2e-3, batch_size=16)
    assert [stage.passes for stage in recipe.stages][2:] == (
        [("split-ternary",)] if weights == "split" else []
    )
    out = tmp_path / "small.onnx"
    result = train(
        folder / "model.onnx", TASK, folder, out, scheme="binarybert", options=options, recipe=recipe
    )
    np.testing.assert_array_equal(*both_logits(folder, out, result.module))
    plan = Plan.of(ir.load(out))
    formats = {str(fmt) for key, fmt in plan.weights.items() if "ffn" in key}
    assert formats == {"Binary(tensor)" if weights == "binary" else "Binary(tensor,planes=2)"}
    if weights == "split":  # the planes have been trained apart: their scales differ
        known = load(out).graph.initializers.values()
        scales = [v.const_value.numpy() for v in known if v.metadata_props.get("bqc.part") == "scales"]
        pairs = [pair for pair in scales if pair.shape == (2, 1)]
        assert len(pairs) == 6 * 2 + 1
        assert all(first != second for first, second in pairs)


def test_a_split_run_goes_on_where_it_was_killed(folder: Path, tmp_path: Path) -> None:
    options = {"weights": "split", "block": 64}
    recipe = default_recipe("binarybert", options, epochs=1, learning_rate=2e-3, batch_size=16)
    runs = []
    for name in ("whole", "again"):
        result = train(
            folder / "model.onnx",
            TASK,
            folder,
            tmp_path / f"{name}.onnx",
            scheme="binarybert",
            options=options,
            recipe=recipe,
            checkpoints=tmp_path / "run",
            resume=name == "again",
        )
        runs.append(result)
        for leftover in (
            tmp_path / "run" / "2-split"
        ).iterdir():  # as if it had been killed in the last stage
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    assert runs[0].metrics == runs[1].metrics
    theirs = runs[1].module.state_dict()
    for name, tensor in runs[0].module.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0)


def test_a_slim_model_is_trained_first(folder: Path, tmp_path: Path) -> None:
    options = {"weights": "binary", "block": 64}
    recipe = default_recipe("binarybert", options, epochs=1, learning_rate=2e-3, batch_size=16)
    asked = {"scheme": "binarybert", "options": options, "recipe": recipe, "width": 0.5}
    result = train(
        folder / "model.onnx", TASK, folder, f"{tmp_path}/small/", checkpoints=tmp_path / "run", **asked
    )
    assert [path.name for path in result.paths][:2] == ["model.bqc.onnx", "model.bqc.onnx.data"]
    assert (tmp_path / "small" / "tokenizer.json").is_file()
    assert set(result.slim or {}) == set(TASK.metrics)
    whole, half = (
        encoder(import_model(path)[0])
        for path in (folder / "model.onnx", tmp_path / "run" / "slim" / "tuned" / "model.onnx")
    )
    assert half.heads * 2 == whole.heads
    assert half.ffn < whole.ffn
    np.testing.assert_array_equal(*both_logits(folder, result.paths[0], result.module))
    again = train(
        folder / "model.onnx",
        TASK,
        folder,
        f"{tmp_path}/again/",
        checkpoints=tmp_path / "run",
        resume=True,
        **asked,
    )
    assert (again.metrics, again.slim) == (result.metrics, result.slim)


def test_widths_that_cannot_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BqcError, match=r"the width is 1\.5; it is above 0 and at most 1"):
        train(folder / "model.onnx", TASK, folder, tmp_path / "a.onnx", width=1.5)
    with pytest.raises(BqcError, match="--scheme none has none"):
        train(folder / "model.onnx", TASK, folder, tmp_path / "a.onnx", scheme="none", width=0.5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BqcError, match="--width works in one process"):
        train(folder / "model.onnx", TASK, folder, tmp_path / "a.onnx", width=0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        (["no-such-pass"], r"r\.yaml: stages\.0\.passes: .*no pass 'no-such-pass'"),
        (["split-ternary{foo=1}"], r"r\.yaml: stages\.0\.passes: .*foo"),
        (
            ["quantize-weights"],
            r"stages\.0\.passes: quantize-weights: what this pass leaves cannot be trained",
        ),
        ("split-ternary", r"r\.yaml: stages\.0\.passes: Input should be a list"),
    ],
)
def test_passes_of_a_stage_are_checked_when_the_recipe_is_read(
    passes: Any, message: str, tmp_path: Path
) -> None:
    stage = {"name": "a", "losses": {"logits": 1}, "passes": passes}
    (tmp_path / "r.yaml").write_text(json.dumps({"bqc_training": 1, "stages": [stage]}), encoding="utf-8")
    with pytest.raises(BqcError, match=message):
        Recipe.read(tmp_path / "r.yaml")


def test_float_training_has_no_options() -> None:
    with pytest.raises(BqcError, match="scheme none trains in float and has no option 'weights'"):
        default_recipe("none", {"weights": "binary"})

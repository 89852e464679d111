"""Runs that are gone on from: only with the options, models and rows that they were begun with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from bqc.cli import main
from bqc.errors import BqcError
from bqc.evaluate.spans import Answers
from bqc.evaluate.task import Examples
from bqc.train.identity import IDENTITY, begin, rows_digest
from bqc.train.recipe import Recipe
from bqc.train.training import train
from tests.support.tiny_task import write_bert

RECIPE = Recipe.two_stage(epochs=1, batch_size=8)
ASKED: dict[str, Any] = {
    "scheme": "binarybert",
    "options": {"weights": "binary"},
    "recipe": RECIPE,
    "limit": 16,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a model: two that differ in weights alone, one with a wider FFN, one with other rows."""
    root = tmp_path_factory.mktemp("resuming")
    options: dict[str, dict[str, Any]] = {
        "own": {},
        "weights": {"seed": 1},
        "wide": {"ffn": 64},
        "rows": {"rows": 44},
    }
    for name, more in options.items():
        (root / name).mkdir()
        write_bert(root / name, **more)
    return {name: root / name for name in options}


@pytest.fixture(scope="module")
def run(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    own = folders["own"]
    train(own / "model.onnx", "sst2", own, folder.with_name("a.onnx"), checkpoints=folder, **ASKED)
    return folder


@pytest.mark.parametrize(
    ("model", "data", "change", "message"),
    [
        ("own", "own", {"width": 0.5}, r"its width is 1, this one's is 0\.5"),
        ("own", "own", {"limit": 20}, "its limit is 16, this one's is 20"),
        ("own", "own", {"limit": None}, "its limit is 16, this one's is none"),
        (
            "own",
            "own",
            {"options": {"weights": "ternary"}},
            r"options\.weights is binary, this one's is ternary",
        ),
        ("own", "own", {"scheme": "none", "options": {}}, "its scheme is binarybert, this one's is none"),
        (
            "own",
            "own",
            {"recipe": Recipe.two_stage(epochs=2, batch_size=8)},
            r"recipe\.stages\.0\.epochs is 1, this one's is 2",
        ),
        ("own", "own", {"recipe": Recipe.two_stage(epochs=1)}, r"recipe\.batch_size is 8, this one's is 32"),
        (
            "weights",
            "own",
            {},
            r"its digest of the model's weights is [0-9a-f]{12}, this one's is [0-9a-f]{12};",
        ),
        ("wide", "own", {}, "its digest of the model's weights is"),
        ("own", "own", {"teacher": "weights"}, "its digest of the teacher's weights is"),
        ("own", "rows", {}, "its digest of the training rows is"),
    ],
)
def test_another_run_is_refused(
    folders: dict[str, Path],
    run: Path,
    tmp_path: Path,
    model: str,
    data: str,
    change: dict[str, Any],
    message: str,
) -> None:
    asked = {**ASKED, **change}
    if "teacher" in asked:
        asked["teacher"] = folders[asked["teacher"]] / "model.onnx"
    before = (run / IDENTITY).read_bytes()
    with pytest.raises(BqcError, match=message) as caught:
        train(
            folders[model] / "model.onnx",
            "sst2",
            folders[data],
            tmp_path / "a.onnx",
            checkpoints=run,
            resume=True,
            **asked,
        )
    assert "\n" not in str(caught.value)
    assert (run / IDENTITY).read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_the_same_run_may_lie_elsewhere(folders: dict[str, Path], run: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    path = write_bert(tmp_path / "copy")
    written = []
    for model, teacher in ((folders["own"] / "model.onnx", None), (path, folders["own"] / "model.onnx")):
        out = tmp_path / f"{len(written)}.onnx"
        train(
            model,
            "sst2",
            model.parent,
            out,
            checkpoints=run,
            resume=True,
            teacher=teacher,
            save_steps=1,
            **ASKED,
        )
        written.append(out.with_name(f"{out.name}.data").read_bytes())
    assert written[0] == written[1]


def test_the_verb_says_it_in_one_line(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, folder = folders["own"], tmp_path / "run"
    asked = ["train", str(own / "model.onnx"), "--task", "sst2", "--data", str(own), "--scheme", "binarybert"]
    asked += ["--weights", "binary", "--epochs", "1", "--limit", "8", "--checkpoints", str(folder)]
    asked += ["-o", str(tmp_path / "a.onnx"), "-q"]
    assert main([*asked, "--width", "0.5"]) == 0
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for width in (["--width", "0.9"], []):
        assert main([*asked, *width, "--resume"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "its width is 0.5, this one's is" in line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made
    assert main([*asked, "--width", "0.5"]) == 2
    assert "go on with it by --resume, give another folder, or remove it" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made


def test_what_else_a_folder_has_stays(folders: dict[str, Path], tmp_path: Path) -> None:
    mine = {
        tmp_path / "notes.txt": "mine",
        tmp_path / "0-data" / "rows": "mine",
        tmp_path / IDENTITY: "mine: 1",
    }
    for path, text in mine.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    own = folders["own"]
    train(own / "model.onnx", "sst2", own, tmp_path / "out" / "a.onnx", checkpoints=tmp_path, **ASKED)
    assert all(
        path.read_text(encoding="utf-8") == text for path, text in mine.items() if path.name != IDENTITY
    )


def test_a_run_that_failed_before_its_first_checkpoint_is_begun_again(tmp_path: Path) -> None:
    for resume in (True, False):
        assert not begin(tmp_path, {"width": 1.0}, resume=resume, first=True)
        assert not begin(tmp_path, {"width": 0.5}, resume=resume, first=True)


@pytest.mark.parametrize(
    "left", ["0-layers/checkpoint-3/complete", "0-layers/finished.pt", "slim/run/0-slim/finished.pt"]
)
def test_runs_of_earlier_versions(folders: dict[str, Path], tmp_path: Path, left: str) -> None:
    place = tmp_path / "run" / left
    place.parent.mkdir(parents=True)
    place.write_text(RECIPE.to_yaml(), encoding="utf-8")
    own = folders["own"]
    asked = {**ASKED, "checkpoints": tmp_path / "run", "resume": True}
    for width in (1.0, 0.5):
        with pytest.raises(
            BqcError, match=r"has a run of another version of bqc, whose run\.yaml does not say"
        ):
            train(own / "model.onnx", "sst2", own, tmp_path / "a.onnx", width=width, **asked)
    assert place.read_text(encoding="utf-8") == RECIPE.to_yaml()


def test_beginning(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    identity = {"width": 0.5, "options": {"include": ("a", "b")}}
    assert not begin(folder, identity, resume=True, first=False)
    assert not folder.exists()
    assert not begin(folder, identity, resume=True, first=True)
    (folder / "0-layers").mkdir()
    (folder / "0-layers" / "finished.pt").touch()
    assert begin(folder, identity, resume=True, first=True)
    with pytest.raises(BqcError, match="go on with it by --resume"):
        begin(folder, identity, resume=False, first=True)
    with pytest.raises(BqcError, match=r"its options\.include\.1 is b, this one's is none"):
        begin(folder, {**identity, "options": {"include": ("a",)}}, resume=True, first=True)
    with pytest.raises(BqcError, match=r"its width is 0\.5, this one's is none"):
        begin(folder, {"options": identity["options"]}, resume=True, first=True)
    assert yaml.safe_load((folder / IDENTITY).read_text(encoding="utf-8"))["bqc_run"] == 1
    for damage in (b"\xff", b"a: [", b"text", b"bqc_run: 2"):
        (folder / IDENTITY).write_bytes(damage)
        with pytest.raises(BqcError, match="of another version"):
            begin(folder, identity, resume=True, first=True)
    (tmp_path / "file").touch()
    with pytest.raises(BqcError, match="file/run: checkpoints cannot be written"):
        begin(tmp_path / "file" / "run", identity, resume=False, first=True)


def test_digests_of_rows() -> None:
    texts = [("a b",), ("c",)]
    tags = [np.array([0, 1]), np.array([2])]
    found = [
        rows_digest(Examples(texts, np.array([0, 1]))),
        rows_digest(Examples(texts, np.array([1, 0]))),
        rows_digest(Examples([("a", "b"), ("c",)], np.array([0, 1]))),
        rows_digest(Examples(texts, tags)),
        rows_digest(Examples(texts, [Answers(("a",), (0,)), Answers(("c",), (0,))])),
        rows_digest(Examples(texts, [Answers(("a",), (0,)), Answers(("c",), (1,))])),
    ]
    assert len(set(found)) == len(found)
    assert rows_digest(Examples(list(texts), [one.copy() for one in tags])) == found[3]


def test_a_tokenizer_is_part_of_it(folders: dict[str, Path], run: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    text = (folders["own"] / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace("Lowercase", "NFC"), encoding="utf-8")
    with pytest.raises(BqcError, match="its digest of the tokenizer is"):
        train(
            folders["own"] / "model.onnx",
            "sst2",
            folders["own"],
            tmp_path / "a.onnx",
            checkpoints=run,
            resume=True,
            tokenizer=other,
            **ASKED,
        )


def test_weights_decide_and_not_the_file(folders: dict[str, Path], tmp_path: Path) -> None:
    from bqc.ir import import_model
    from bqc.train.identity import weights_digest

    path = folders["own"] / "model.onnx"
    model = ir.load(path)
    model.producer_name = "another"
    ir.save(model, tmp_path / "again.onnx")
    one, again, other = (
        weights_digest(import_model(file)[0])
        for file in (path, tmp_path / "again.onnx", folders["weights"] / "model.onnx")
    )
    assert one == again != other

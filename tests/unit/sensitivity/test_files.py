"""Scores as files: resuming, reading back, annotating, the verb and its heat map."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bqc.cli import main
from bqc.errors import BqcError
from bqc.evaluate.tasks import find_task
from bqc.formats import BlockShift
from bqc.ir import import_model
from bqc.passes.annotate_sensitivity import METRIC_KEY, SENSITIVITY_KEY, AnnotateSensitivity
from bqc.passes.plan_bbct import PlanBbct
from bqc.plan import Plan
from bqc.sensitivity import Score, Sensitivity, analyze
from bqc.sensitivity.options import Options
from bqc.sensitivity.weight_error import WeightError
from tests.support.tiny_task import write_bert

FORMATS = (BlockShift(8, 16), BlockShift(4, 16))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


class Killed(BaseException):
    """Ends an analysis as a signal would."""


def interrupted(model: Path, journal: Path, after: int, formats: tuple[BlockShift, ...] = FORMATS) -> None:
    def progress(done: int, total: int) -> None:
        if done == after:
            raise Killed

    with pytest.raises(Killed):
        analyze(model, "weight-error", formats, journal=journal, progress=progress)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are measured from now on."""
    seen: list[str] = []
    real = WeightError.__call__

    def measure(self: WeightError, part: object, formats: object) -> object:
        seen.append(part.key)  # type: ignore[attr-defined]
        return real(self, part, formats)  # type: ignore[arg-type]

    monkeypatch.setattr(WeightError, "__call__", measure)
    return seen


def plain(found: Sensitivity) -> list[tuple[str, dict[str, float]]]:
    return [(score.key, score.formats) for score in found.scores]


def test_a_killed_analysis_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "s.json.partial"
    whole = analyze(model, "weight-error", FORMATS)
    interrupted(model, journal, 5)
    seen = counted(monkeypatch)
    assert plain(analyze(model, "weight-error", FORMATS, journal=journal)) == plain(whole)
    assert seen == [score.key for score in whole.scores[5:]]


def test_a_line_cut_short_is_measured_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "s.json.partial"
    interrupted(model, journal, 5)
    journal.write_text(journal.read_text()[:-20])
    seen = counted(monkeypatch)
    assert len(analyze(model, "weight-error", FORMATS, journal=journal).scores) == 17
    assert len(seen) == 17 - 4
    seen.clear()
    analyze(model, "weight-error", FORMATS, journal=journal)
    assert seen == []  # and what followed the damage was kept readable


def test_another_question_starts_anew(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "s.json.partial"
    interrupted(model, journal, 5)
    seen = counted(monkeypatch)
    analyze(model, "weight-error", FORMATS[:1], journal=journal)
    assert len(seen) == 17


def test_a_finished_analysis_is_not_repeated(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.json"
    command = ["sensitivity", str(model), "--metric", "weight-error", "-o", str(out)]
    assert main([*command, "--formats", "8"]) == 0
    assert "nothing was measured" not in capsys.readouterr().err
    written = out.read_bytes()
    seen = counted(monkeypatch)
    assert main([*command, "--formats", "8"]) == 0
    assert seen == []
    assert out.read_bytes() == written
    said = capsys.readouterr()
    assert "weight-error of weights" in said.out
    assert "has these scores already; nothing was measured" in said.err
    # Another question, another model in the file's place, and a file that is none are measured.
    for change in ("formats", "model", "file"):
        seen.clear()
        if change == "model":
            write_bert(tmp_path, layers=2, seed=1)
            command[1] = str(tmp_path / "model.onnx")
        if change == "file":
            out.write_text("{", encoding="utf-8")
        assert main([*command, "--formats", "4"]) == 0
        assert len(seen) == 17
        assert sorted(path.suffix for path in tmp_path.glob("s.*")) == [".json"]


def test_labels_are_part_of_the_question(model: Path, tmp_path: Path) -> None:
    questions = []
    for flipped in (False, True):
        folder = tmp_path / str(flipped)
        folder.mkdir()
        write_bert(folder)
        if flipped:
            file = folder / "glue" / "SST-2" / "train.tsv"
            lines = file.read_text(encoding="utf-8").splitlines()
            turned = [f"{line[:-1]}{1 - int(line[-1])}" for line in lines[1:]]
            file.write_text("\n".join([lines[0], *turned]) + "\n", encoding="utf-8")
        found = analyze(
            model, "mse", FORMATS[:1], task=find_task("sst2"), data=folder, options=Options(examples=2)
        )
        questions.append(found.question)
    assert questions[0] != questions[1]


def scores(**changed: object) -> Sensitivity:
    values = {"BlockShift(8,64)": 0.1, "BlockShift(4,64)": 0.5}
    items = (
        Score("weight", "0:ffn.output", values, also=["1:ffn.output"]),
        Score("weight", "0:ffn.intermediate", {**values, "BlockShift(4,64)": 0.75}),
    )
    fields = {
        "metric": "kl",
        "model": "0",
        "formats": tuple(values),
        "sample": "",
        "options": {},
        "scores": items,
    }
    return Sensitivity(**{**fields, **changed})  # type: ignore[arg-type]


def test_there_and_back(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(scores().to_dict()), encoding="utf-8")
    assert Sensitivity.read(file) == scores()
    assert [one.key for one in scores().ranked("weight", "BlockShift(4,64)")] == [
        "0:ffn.intermediate",
        "0:ffn.output",
    ]
    assert scores().values("weight", "BlockShift(8,64)")["1:ffn.output"] == 0.1
    assert scores().ranked("activation", "BlockShift(4,64)") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "not scores that bqc sensitivity wrote"),
        ('{"bqc_sensitivity": 2}', "not scores that bqc sensitivity wrote"),
        ('{"bqc_sensitivity": 1}', r"damaged scores \(KeyError: 'scores'\)"),
        ('{"bqc_sensitivity": 1, "scores": [{"key": 1}]}', "damaged scores"),
        (json.dumps(scores().to_dict()).replace("0.75", "NaN"), "not a finite number"),
    ],
)
def test_other_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text, encoding="utf-8")
    with pytest.raises(BqcError, match=message):
        Sensitivity.read(tmp_path / "s.json")


def test_annotating_from_a_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    formats = "BlockShift(8,16),BlockShift(4,16)"
    assert main(["sensitivity", str(model), "--formats", formats, "-o", str(file), "-q"]) == 0
    found = Sensitivity.read(file)
    loaded, _ = import_model(model)
    AnnotateSensitivity(scores=str(file))(loaded)
    assert loaded.metadata_props[METRIC_KEY] == "weight-error"
    noted = [
        json.loads(n.metadata_props[SENSITIVITY_KEY])
        for n in loaded.graph
        if SENSITIVITY_KEY in n.metadata_props
    ]
    assert len(noted) == 17
    assert noted[0] == found.scores[0].formats
    # A plan reads them like the ones that are computed on the spot.
    PlanBbct(weight_bits=4, block=16, max_error=0.012)(loaded)
    bits = {fmt.bits for key, fmt in Plan.of(loaded).weights.items() if key != "head:head"}
    assert bits == {4, 8}


def test_scores_of_another_model(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(scores().to_dict()), encoding="utf-8")
    loaded, _ = import_model(model)
    with pytest.raises(BqcError, match=r"no score for embedding:embedding\.\w+ in BlockShift\(8,64\)"):
        AnnotateSensitivity(scores=str(file))(loaded)


def test_scores_of_a_larger_model_or_of_other_weights(model: Path, tmp_path: Path) -> None:
    def annotate(found: Sensitivity) -> None:
        file = tmp_path / "s.json"
        file.write_text(json.dumps(found.to_dict()), encoding="utf-8")
        loaded, _ = import_model(model)
        AnnotateSensitivity(scores=str(file))(loaded)

    for folder in ("larger", "other"):
        (tmp_path / folder).mkdir()
    larger = analyze(write_bert(tmp_path / "larger", layers=3), "weight-error", FORMATS)
    with pytest.raises(BqcError, match=r"it scores 2:attention\.query, which this model does not have"):
        annotate(larger)
    other = analyze(write_bert(tmp_path / "other", seed=1), "weight-error", FORMATS)
    with pytest.raises(BqcError, match="the weights that it scores are not those of this one"):
        annotate(other)
    annotate(replace(other, weights=""))  # written before the file said so
    with pytest.raises(BqcError, match="2:attention"):
        annotate(replace(larger, weights=""))


def test_the_same_weights_in_another_file_are_the_same_model(model: Path, tmp_path: Path) -> None:
    file, copy = tmp_path / "new" / "s.json", tmp_path / "imported.onnx"
    assert main(["sensitivity", str(model), "-o", str(file), "-q"]) == 0
    passes = "import-canonicalize,annotate-anatomy"
    assert main(["opt", str(model), "-p", passes, "-o", str(copy), "-q"]) == 0
    assert copy.read_bytes() != model.read_bytes()
    annotated = tmp_path / "scored.onnx"
    step = f"annotate-sensitivity{{scores={file}}}"
    assert main(["opt", str(copy), "-p", step, "-o", str(annotated), "-q"]) == 0


def test_outputs_that_cannot_be_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotly")
    seen = counted(monkeypatch)
    page = "/proc/e.html"
    out = tmp_path / "s.json"
    assert main(["sensitivity", str(model), "-o", str(out), "--html", page]) == 2
    assert f"{page}: cannot be written" in capsys.readouterr().err
    assert main(["sensitivity", str(model), "-o", str(tmp_path)]) == 2
    assert f"{tmp_path}: cannot be written: Is a directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert seen == []


def test_the_verb(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly")
    out, page = tmp_path / "s.json", tmp_path / "s.html"
    command = [
        "sensitivity",
        str(model),
        "--task",
        "sst2",
        "--data",
        str(model.parent),
        "--examples",
        "8",
        "--threads",
        "1",
    ]
    options = [
        "--parts",
        "weights,activations",
        "--formats",
        "BlockShift(4,16)",
        "-o",
        str(out),
        "--html",
        str(page),
    ]
    assert main([*command, *options]) == 0
    text = capsys.readouterr().out
    assert "kl of weights, by BlockShift(4,16), 8 random rows of SST-2 train, seed 0" in text
    assert "kl of activations" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.html", "s.json"]
    html = page.read_text(encoding="utf-8")
    assert "layer 1" in html
    assert "ffn.gelu" in html
    assert '<script src="http' not in html  # it carries everything itself
    assert main([*command, "--json", "--formats", "8"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema_version"], report["bqc_sensitivity"], report["metric"]) == (1, 1, "kl")
    assert report["formats"] == ["BlockShift(8,64)"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--formats", "5"], "--formats: BlockShift has no 5-bit codes"),
        (["--formats", "int8"], "'int8' is not a format"),
        (["--parts", "weight"], "--parts: 'weight' is none of weights, activations"),
        (["--metric", "hessian"], "hessian takes gradients of a loss, which needs labels"),
        (["--task", "mnli"], "the model has 2 outputs and MNLI-m needs 3"),
        (["-o", "/proc/no/such/folder/s.json"], "/proc/no/such/folder/s.json: cannot be written"),
        (["--inputs", "none.npz"], "none.npz: not a readable .npz file"),
        (["--task", "sst2", "--inputs", "none.npz"], "examples come from --task or from --inputs"),
        (["--task", "sst2", "--seed", "-5"], "Invalid value for '--seed': -5 is not in the range x>=0"),
    ],
)
def test_the_verbs_errors(
    model: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sensitivity", str(model), "--data", str(model.parent), *options]) == 2
    assert message in capsys.readouterr().err

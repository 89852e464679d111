"""Files of the user's own: columns, labels, metrics, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bqc.cli import main
from bqc.errors import BqcError
from bqc.evaluate import evaluate
from bqc.evaluate.columns import column_task
from bqc.evaluate.data import read_hub, read_local
from bqc.evaluate.tasks import Examples
from tests.support.tiny_encoder import VOCABULARY, write_classifier, write_tokenizer

ROWS = [
    ("a good, good film", "positive"),
    ('the "bad" film', "negative"),
    ("good", "positive"),
    ("bad", "positive"),
]
TASK = column_task("text", "label", labels=("negative", "positive"))


def write(folder: Path, kind: str, rows: list[tuple[str, str]] = ROWS) -> Path:
    file = folder / f"dev.{kind}"
    if kind == "jsonl":
        lines = [json.dumps({"id": 1, "text": text, "label": label}) for text, label in rows]
    else:
        quote, comma = ("", "\t") if kind == "tsv" else ('"', ",")
        lines = [f"id{comma}text{comma}label"]
        for text, label in rows:
            inside = text.replace('"', '""') if quote else text
            lines.append(f"1{comma}{quote}{inside}{quote}{comma}{label}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_kinds_of_files(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path, kind)
    for place in (file, tmp_path):
        examples = read_local(TASK, place)
        assert examples.texts == [(text,) for text, _ in ROWS]
        assert examples.labels.tolist() == [1, 0, 1, 1]  # type: ignore[union-attr]


def test_csv_fields_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b'\xef\xbb\xbftext,label\r\n"two\r\nlines, ""quoted""",1\r\n\r\nplain,0\r\n')
    examples = read_local(TASK, file)
    assert examples.texts == [('two\r\nlines, "quoted"',), ("plain",)]


def test_labels_by_index_and_by_number(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "a", "label": 1}\n\n{"text": "b", "label": "0"}\n', encoding="utf-8")
    assert read_local(TASK, file).labels.tolist() == [1, 0]  # type: ignore[union-attr]
    scores = read_local(column_task("text", "label", regression=True), file).labels
    assert scores.dtype == np.float32  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "txt,label\na,1\n", r"x\.csv:2: no column 'text': did you mean txt\? there are txt, label"),
        ("x.csv", "text,label\na\n", r"x\.csv:2: 1 fields where the header has 2"),
        ("x.csv", 'text,label\n"a,1\n', r"x\.csv:2: not a row"),
        ("x.csv", "text,label\n", "no rows"),
        ("x.csv", "", "no rows"),
        ("x.csv", "text,label\na,positve\n", r"x\.csv:2: label 'positve' is not .* did you mean positive"),
        ("x.csv", "text,label\na,2\n", "label '2' is not one of"),
        ("x.csv", "text,label\na,0.5\n", "label '0.5' is not one of"),
        ("x.jsonl", '{"text": "a", "label": 1}\n{"text": "b"\n', r"x\.jsonl:2: not JSON"),
        ("x.jsonl", '["a", 1]\n', r"x\.jsonl:1: not a JSON object"),
        ("x.jsonl", '{"text": ["a"], "label": 1}\n', r"column 'text' holds \[\"a\"\], which is not a text"),
        ("x.jsonl", '{"text": "a"}\n', "no column 'label': there are text"),
        ("x.txt", "a 1\n", r"not a kind of file that is read here; there are \.csv, \.tsv, \.jsonl"),
    ],
)
def test_broken_files(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BqcError, match=message):
        read_local(TASK, tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BqcError, match="no such folder"):
        read_local(TASK, tmp_path / "none.csv")
    with pytest.raises(BqcError, match=r"needs dev\.csv or dev\.tsv or dev\.jsonl under"):
        read_local(TASK, tmp_path)
    with pytest.raises(BqcError, match="--data FILE"):
        read_hub(TASK)
    with pytest.raises(BqcError, match="no metric 'acuracy': did you mean accuracy"):
        column_task("text", "label", metrics=("acuracy",))
    (tmp_path / "x.csv").write_text("text,label\na,high\n", encoding="utf-8")
    with pytest.raises(BqcError, match="label 'high' is not a number"):
        read_local(column_task("text", "label", regression=True), tmp_path / "x.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    write(tmp_path, "csv")
    write_classifier(tmp_path / "model.onnx", labels=["negative", "positive"])
    return tmp_path


def test_classes_are_the_models(folder: Path) -> None:
    result = evaluate(folder / "model.onnx", column_task("text", "label"), folder / "dev.csv")
    assert result.metrics == pytest.approx({"accuracy": 0.75, "macro_f1": (2 / 3 + 4 / 5) / 2})
    swapped = column_task("text", "label", labels=("positive", "negative"))
    with pytest.raises(BqcError, match="in another order than the file"):
        evaluate(folder / "model.onnx", swapped, folder / "dev.csv")


def test_one_output_is_a_number(folder: Path) -> None:
    weight = np.zeros((len(VOCABULARY), 1), dtype=np.float32)
    weight[VOCABULARY.index("good")] = 1
    model = write_classifier(folder / "scores" / "model.onnx", weight)
    write(folder, "tsv", [("good good", "5"), ("good", "2.5"), ("film", "0.5")])
    result = evaluate(model, column_task("text", "label"), folder / "dev.tsv", tokenizer=folder)
    assert result.metrics["spearman"] == pytest.approx(1)
    assert list(result.metrics) == ["spearman", "pearson"]


def test_a_metric_of_the_users(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("own_metrics.py").write_text(
        "def misses(labels, predictions):\n    return sum(a != b for a, b in zip(labels, predictions))\n"
        "def both(labels, predictions):\n    return {'rows': len(labels), 'ones': sum(predictions)}\n"
        "def broken(labels, predictions):\n    return labels.nonsense\n"
        "number = 3\n"
    )
    command = ["eval", "model.onnx", "--data", "dev.csv", "--text-column", "text", "--label-column", "label"]
    assert main([*command, "--json", "--metric-fn", "own_metrics:misses", "--metric", "f1"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["metrics"] == pytest.approx(
        {"f1": 0.8, "misses": 1}
    )
    assert main([*command, "--json", "--metric-fn", "own_metrics:both"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["metrics"]["ones"] == 2
    for spelling, message in {
        "own_metrics:broken": "the metric function broken failed: AttributeError",
        "own_metrics:number": "is a int, not a function",
        "own_metrics:none": "cannot import own_metrics:none",
        "no_such_module:f": "ModuleNotFoundError",
        "own_metrics": "is not module:function",
    }.items():
        assert main([*command, "--metric-fn", spelling]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "sst2", "--text-column", "text"], "--text-column is for a file of your own"),
        (["--task", "sst2", "--metric", "f1"], "--metric is for a file of your own"),
        (["--text-column", "text"], "give --task, or --text-column and --label-column"),
        (["--text-column", "text", "--label-column", "label"], "give it with --data FILE"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "model.onnx", *options]) == 2
    assert message in capsys.readouterr().err


def test_f1_is_of_two_classes() -> None:
    task = column_task("text", "label", labels=("a", "b", "c"), metrics=("f1",))
    with pytest.raises(BqcError, match="use macro_f1 for more classes"):
        task.score(Examples([("x",)] * 3, np.asarray([0, 1, 2])), np.asarray([0, 1, 1]))


def test_three_swapped_classes_without_names(folder: Path) -> None:
    weight = np.zeros((len(VOCABULARY), 3), dtype=np.float32)
    for label, word in enumerate(("bad", "film", "good")):
        weight[VOCABULARY.index(word), label] = 1
    rows = [("bad", "0"), ("film", "1"), ("good", "2")] * 20
    write(folder, "csv", rows)
    task = column_task("text", "label", labels=("0", "1", "2"))
    model = write_classifier(folder / "three" / "model.onnx", weight)
    assert evaluate(model, task, folder / "dev.csv", tokenizer=folder).metrics["accuracy"] == 1
    write_classifier(model, weight[:, [2, 1, 0]])
    with pytest.raises(BqcError, match="run against the labels"):
        evaluate(model, task, folder / "dev.csv", tokenizer=folder)

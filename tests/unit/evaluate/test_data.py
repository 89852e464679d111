"""Reading task files in each of their layouts, and the same rows from the hub."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bqc.errors import BqcError
from bqc.evaluate.data import load_examples, read_hub, read_local
from bqc.evaluate.spans import Answers
from bqc.evaluate.tasks import TASKS, Examples, find_task

_NLI_HEADER = "\t".join(
    [
        "index",
        "promptID",
        "pairID",
        "genre",
        "sentence1_binary_parse",
        "sentence2_binary_parse",
        "sentence1_parse",
        "sentence2_parse",
        "sentence1",
        "sentence2",
        "label1",
        "gold_label",
    ]
)
_NLI = f"{_NLI_HEADER}\n" + "".join(
    f"{row}\t1\t1e\tfiction\t(\t(\t(\t(\tA.\tB{row}.\tneutral\t{label}\n"
    for row, label in enumerate(("entailment", "neutral", "contradiction"))
)
_CONTEXT = "  The war began in 1917, and ended in 1918."
_SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "War",
            "paragraphs": [
                {
                    "context": _CONTEXT,
                    "qas": [
                        {
                            "id": "1",
                            "question": "  When did it begin?",
                            "answers": [
                                {"text": "1917", "answer_start": 19},
                                {"text": "in 1917", "answer_start": 16},
                            ],
                        },
                        {
                            "id": "2",
                            "question": "And end?",
                            "answers": [{"text": "1918", "answer_start": 38}],
                        },
                    ],
                }
            ],
        }
    ],
}
_CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP B-ORG
rejects VBZ I-VP O
German JJ I-NP B-MISC
call NN I-NP O

Peter NNP I-NP B-PER
Blackburn NNP I-NP I-PER
"""

FILES = {
    "sst2": ("glue/SST-2/dev.tsv", "sentence\tlabel\nit 's a \"charming film . \t1\nbleak\t0\n"),
    "mrpc": (
        "glue/MRPC/dev.tsv",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t3\t4\tHe said so.\t"He said so.\n'
        "0\t5\t6\tA\tB\n",
    ),
    "cola": ("glue/CoLA/dev.tsv", "gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tSailors the rode.\n"),
    "stsb": (
        "glue/STS-B/dev.tsv",
        "index\tgenre\tsource1\tsentence1\tsentence2\tscore\n"
        "0\tnews\tnone\tA man.\tA person.\t4.750\n"
        "1\tnews\tnone\tA\tB\t0\n",
    ),
    "rte": (
        "glue/RTE/dev.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n1\tC.\tD.\tnot_entailment\n",
    ),
    "qnli": (
        "glue/QNLI/dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\tA?\tB.\tentailment\n1\tC?\tD.\tnot_entailment\n",
    ),
    "qqp": (
        "glue/QQP/dev.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "0\t1\t2\tA?\tB?\t0\n1\t3\t4\tcut off\n2\t5\t6\tC?\tC ?\t1\n",
    ),
    "mnli": ("glue/MNLI/dev_matched.tsv", _NLI),
    "mnlimm": ("glue/MNLI/dev_mismatched.tsv", _NLI),
    "wnli": (
        "glue/WNLI/dev.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n1\tC.\tD.\t0\n",
    ),
    "squad": ("squad/dev-v1.1.json", json.dumps(_SQUAD)),
    "conll03": ("conll03/valid.txt", _CONLL),
}

_NLI_TEXTS: list[tuple[str, ...]] = [("A.", "B0."), ("A.", "B1."), ("A.", "B2.")]
EXPECTED: dict[str, tuple[list[tuple[str, ...]], list[Any]]] = {
    "sst2": ([("it 's a \"charming film .",), ("bleak",)], [1, 0]),
    "mrpc": ([("He said so.", '"He said so.'), ("A", "B")], [1, 0]),
    "cola": ([("The sailors rode.",), ("Sailors the rode.",)], [1, 0]),
    "stsb": ([("A man.", "A person."), ("A", "B")], [4.75, 0.0]),
    "rte": ([("A.", "B."), ("C.", "D.")], [0, 1]),
    "qnli": ([("A?", "B."), ("C?", "D.")], [0, 1]),
    "qqp": ([("A?", "B?"), ("C?", "C ?")], [0, 1]),
    "mnli": (_NLI_TEXTS, [0, 1, 2]),
    "mnlimm": (_NLI_TEXTS, [0, 1, 2]),
    "wnli": ([("A.", "B."), ("C.", "D.")], [1, 0]),
    "squad": (
        [("When did it begin?", _CONTEXT), ("And end?", _CONTEXT)],
        [Answers(("1917", "in 1917"), (19, 16)), Answers(("1918",), (38,))],
    ),
    "conll03": ([("EU", "rejects", "German", "call"), ("Peter", "Blackburn")], [[3, 0, 7, 0], [1, 2]]),
}


def write(folder: Path, task: str, text: str | None = None) -> Path:
    name, default = FILES[task]
    file = folder / name
    file.parent.mkdir(parents=True)
    file.write_text(text if text is not None else default, encoding="utf-8")
    return folder


def plain(examples: Examples) -> tuple[list[tuple[str, ...]], list[Any]]:
    labels = [
        label.tolist() if isinstance(label, np.ndarray | np.generic) else label for label in examples.labels
    ]
    return examples.texts, labels


@pytest.mark.parametrize("task", TASKS)
def test_layout(task: str, tmp_path: Path) -> None:
    examples = read_local(TASKS[task], write(tmp_path, task))
    assert plain(examples) == EXPECTED[task]
    if isinstance(examples.labels, np.ndarray):
        assert examples.labels.dtype == (np.float32 if task == "stsb" else np.int64)
    assert len(examples.head(1)) == 1
    assert plain(examples.take([1, 0]))[0] == [EXPECTED[task][0][1], EXPECTED[task][0][0]]


@pytest.mark.parametrize("task", ["sst2", "squad", "conll03"])
def test_the_folder_above_may_be_left_out(task: str, tmp_path: Path) -> None:
    write(tmp_path, task)
    above = FILES[task][0].split("/")[0]
    assert plain(read_local(TASKS[task], tmp_path / above)) == EXPECTED[task]


def test_iob1_tags_become_iob2(tmp_path: Path) -> None:
    text = "In IN O\nNew NNP I-LOC\nYork NNP I-LOC\nParis NNP B-LOC\nIBM NNP I-ORG\n"
    examples = read_local(TASKS["conll03"], write(tmp_path, "conll03", text))
    assert [TASKS["conll03"].labels[tag] for tag in examples.labels[0]] == [
        "O", "B-LOC", "I-LOC", "B-LOC", "B-ORG",
    ]  # fmt: skip


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BQC_DATA", str(write(tmp_path, "cola")))
    assert len(load_examples(TASKS["cola"])) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\tlabel\nfine\t1\nbroken\n", r"dev\.tsv:3: not a SST-2 row"),
        ("sentence\tlabel\nfine\t2\n", "label '2'"),
        (
            "sentance\tlabel\nfine\t1\n",
            "no column 'sentence': did you mean sentance\\? there are sentance, label",
        ),
        ("sentence\tlabel\nfine\tpositiv\n", r"dev\.tsv:2: label 'positiv' .* did you mean positive"),
        ("sentence\tlabel\n", "no rows"),
        ("", "no column 'sentence': there are none"),
    ],
)
def test_broken_file(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BqcError, match=message):
        read_local(TASKS["sst2"], write(tmp_path, "sst2", text))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BqcError, match="no such folder"):
        read_local(TASKS["sst2"], tmp_path / "none")
    with pytest.raises(BqcError, match=r"needs glue/SST-2/dev\.tsv"):
        read_local(TASKS["sst2"], tmp_path)


def _hub_rows(task: str) -> Any:
    """The rows of ``FILES`` as the hub has them, in a real ``datasets.Dataset``."""
    datasets = pytest.importorskip("datasets")
    texts, labels = EXPECTED[task]
    if task == "squad":
        answers = [{"text": list(label.texts), "answer_start": list(label.starts)} for label in labels]
        return datasets.Dataset.from_dict(
            {
                "id": ["1", "2"],
                "question": ["  When did it begin?", "And end?"],
                "context": [text[1] for text in texts],
                "answers": answers,
            }
        )
    if task == "conll03":
        # Another order of names than ours, as a dataset is free to have.
        names = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
        ours = TASKS["conll03"].labels
        tags = [[names.index(ours[tag]) for tag in row] for row in labels]
        features = datasets.Features(
            {
                "tokens": datasets.Sequence(datasets.Value("string")),
                "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
            }
        )
        return datasets.Dataset.from_dict(
            {"tokens": [list(row) for row in texts], "ner_tags": tags}, features
        )
    columns = TASKS[task].hub.text  # type: ignore[union-attr]
    data = {name: [f"{text[side]} " for text in texts] for side, name in enumerate(columns)}
    rows = datasets.Dataset.from_dict({**data, "label": labels})
    return rows.cast_column("label", datasets.Value("float32")) if task == "stsb" else rows


@pytest.mark.parametrize("task", TASKS)
def test_hub_gives_the_same_examples(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, config: str | None, split: str, revision: str | None) -> Any:
        asked.append((name, config, split))
        return _hub_rows(task)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert plain(read_hub(TASKS[task])) == EXPECTED[task]
    source = TASKS[task].hub
    assert source is not None
    wanted = {"mnli": "validation_matched", "mnlimm": "validation_mismatched"}.get(task, "validation")
    assert asked == [(source.dataset, source.config, wanted)]


def test_hub_without_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(BqcError, match="no column 'sentence': there are text, label"):
        read_hub(TASKS["sst2"])


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: str, **__: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(BqcError, match=r"from the hub \(no route\): give a local folder with --data DIR"):
        read_hub(TASKS["sst2"])


def test_attempts_to_reach_the_hub_are_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = pytest.importorskip("datasets")
    logger = logging.getLogger("huggingface_hub.utils._http")

    def load_dataset(*_: str, **__: str) -> None:
        for attempt in range(5):
            logger.warning("Retrying in 1s [Retry %d/5].", attempt)
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(BqcError, match="from the hub"):
        read_hub(TASKS["sst2"])
    assert not caplog.records
    logger.warning("another")
    assert len(caplog.records) == 1


def test_names() -> None:
    assert find_task("SST-2") is TASKS["sst2"]
    assert find_task("sts_b") is TASKS["stsb"]
    assert find_task("MNLI-mm") is TASKS["mnlimm"]
    assert find_task("CoNLL-2003") is TASKS["conll03"]
    with pytest.raises(BqcError, match="did you mean mrpc"):
        find_task("mprc")


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("squad", "{", "not in the SQuAD 1.1 layout"),
        ("squad", '{"data": [{"paragraphs": [{"context": "a"}]}]}', "KeyError: 'qas'"),
        ("squad", '{"data": []}', "no rows"),
        ("conll03", "word\n", r"valid\.txt:1: not a CoNLL-03 line"),
        ("conll03", "word X\n", r"valid\.txt:1: not a CoNLL-03 line"),
        ("conll03", "word B-PERSON\n", "label 'B-PERSON' is not one of CoNLL-03's: did you mean B-PER"),
        ("conll03", "-DOCSTART- O\n\n", "no rows"),
    ],
)
def test_broken_words_and_answers(task: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BqcError, match=message):
        read_local(TASKS[task], write(tmp_path, task, text))


def test_encodings(tmp_path: Path) -> None:
    write(tmp_path, "sst2")
    file = tmp_path / FILES["sst2"][0]
    file.write_bytes("sentence\tlabel\nplain\t1\ncafé\t1\n".encode("latin-1"))
    with pytest.raises(BqcError, match=r"dev\.tsv:3: not UTF-8 \(byte 0xe9\); convert it"):
        read_local(TASKS["sst2"], tmp_path)
    file.write_bytes("sentence\tlabel\ncafé\t1\n".encode("utf-16"))
    with pytest.raises(BqcError, match=r"dev\.tsv:1: not UTF-8"):
        read_local(TASKS["sst2"], tmp_path)
    file.write_bytes("sentence\tlabel\r\ncafé\u2028\t1\r\n".encode("utf-8-sig"))
    assert read_local(TASKS["sst2"], tmp_path).texts == [("café",)]


def test_official_rows() -> None:
    folder = Path(os.environ.get("BQC_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no task data beside the checkout")
    rows = {"sst2": 872, "mrpc": 408, "cola": 1043, "stsb": 1500, "squad": 10570, "conll03": 3250}
    assert {name: len(read_local(TASKS[name], folder)) for name in rows} == rows

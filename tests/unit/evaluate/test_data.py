"""Reading task files in each of their layouts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bqc.errors import BqcError
from bqc.evaluate.data import load_examples, read_hub, read_local
from bqc.evaluate.tasks import TASKS, find_task

FILES = {
    "sst2": ("SST-2", "sentence\tlabel\nit 's a \"charming film . \t1\nbleak\t0\n"),
    "mrpc": (
        "MRPC",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t3\t4\tHe said so.\t"He said so.\n'
        "0\t5\t6\tA\tB\n",
    ),
    "cola": ("CoLA", "gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tSailors the rode.\n"),
    "stsb": (
        "STS-B",
        "index\tgenre\tsource1\tsentence1\tsentence2\tscore\n"
        "0\tnews\tnone\tA man.\tA person.\t4.750\n"
        "1\tnews\tnone\tA\tB\t0\n",
    ),
}

EXPECTED = {
    "sst2": ([("it 's a \"charming film .",), ("bleak",)], [1, 0]),
    "mrpc": ([("He said so.", '"He said so.'), ("A", "B")], [1, 0]),
    "cola": ([("The sailors rode.",), ("Sailors the rode.",)], [1, 0]),
    "stsb": ([("A man.", "A person."), ("A", "B")], [4.75, 0.0]),
}


def write(folder: Path, task: str, text: str | None = None) -> Path:
    name, default = FILES[task]
    place = folder / "glue" / name
    place.mkdir(parents=True)
    (place / "dev.tsv").write_text(text if text is not None else default, encoding="utf-8")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_layout(task: str, tmp_path: Path) -> None:
    examples = read_local(TASKS[task], write(tmp_path, task))
    texts, labels = EXPECTED[task]
    assert examples.texts == texts
    assert examples.labels.tolist() == labels
    assert examples.labels.dtype == (np.float32 if task == "stsb" else np.int64)
    assert read_local(TASKS[task], tmp_path / "glue").texts == texts
    assert len(examples.head(1)) == 1


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BQC_DATA", str(write(tmp_path, "cola")))
    assert len(load_examples(TASKS["cola"])) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\tlabel\nfine\t1\nbroken\n", r"dev\.tsv:3: not a SST-2 row"),
        ("sentence\tlabel\nfine\t2\n", "label '2'"),
        ("text\tlabel\nfine\t1\n", "not a SST-2 row"),
        ("sentence\tlabel\n", "no rows"),
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


def test_hub_gives_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"sentence": ["it 's a \"charming film . ", "bleak"], "label": [1, 0]}
    asked = []

    def load_dataset(name: str, config: str, split: str) -> dict[str, list[object]]:
        asked.append((name, config, split))
        return rows  # type: ignore[return-value]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples = read_hub(TASKS["sst2"])
    assert (examples.texts, examples.labels.tolist()) == EXPECTED["sst2"]
    assert asked == [("nyu-mll/glue", "sst2", "validation")]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: str, **__: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(BqcError, match=r"from the hub \(no route\): give a local folder with --data DIR"):
        read_hub(TASKS["sst2"])


def test_names() -> None:
    assert find_task("SST-2") is TASKS["sst2"]
    assert find_task("sts_b") is TASKS["stsb"]
    with pytest.raises(BqcError, match="did you mean mrpc"):
        find_task("mprc")


def test_official_rows() -> None:
    folder = Path(os.environ.get("BQC_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no task data beside the checkout")
    counts = {name: len(read_local(task, folder)) for name, task in TASKS.items()}
    assert counts == {"sst2": 872, "mrpc": 408, "cola": 1043, "stsb": 1500}

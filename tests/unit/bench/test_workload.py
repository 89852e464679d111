"""Batches to run on, and the lengths of real rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bqc.bench.lengths import HISTOGRAMS, built_in_lengths, measured_lengths
from bqc.bench.workload import Vocabulary, full, ragged, realistic
from bqc.errors import BqcError
from bqc.evaluate.tasks import TASKS
from tests.support.tiny_encoder import VOCABULARY, write_tokenizer

WORDS = Vocabulary(50, 2)


def test_full_has_no_padding() -> None:
    workload = full((3, 20), WORDS, 1)
    (batch,) = workload.batches
    assert workload.name == "3x20"
    assert batch.ids.shape == batch.mask.shape == batch.types.shape == (3, 20)
    assert batch.mask.all()
    assert batch.ids.min() >= 1
    assert batch.ids.max() < 50
    assert set(np.unique(batch.types)) == {0, 1}
    assert workload.tokens == workload.padded_tokens == 60


def test_the_seed_decides() -> None:
    first, again, other = (full((2, 9), WORDS, seed).batches[0].ids for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_ragged_is_padded_to_the_shape() -> None:
    workload = ragged((4, 30), WORDS, 1)
    assert workload.name == "4x30 random"
    assert len(workload.batches) == 8
    assert all(batch.ids.shape == (4, 30) for batch in workload.batches)
    assert workload.tokens < workload.padded_tokens == 120


def test_realistic_is_padded_to_the_longest_row_and_cut_to_the_shape() -> None:
    workload = realistic((2, 10), WORDS, "task", [4, 7, 40], 1)
    assert workload.name == "2x10 task"
    lengths = [batch.mask.sum(axis=1) for batch in workload.batches]
    assert {int(n) for row in lengths for n in row} == {4, 7, 10}
    for batch, row in zip(workload.batches, lengths, strict=True):
        assert batch.ids.shape == (2, row.max())
        assert not batch.ids[batch.mask == 0].any()
        assert not batch.types[batch.mask == 0].any()


def test_built_in_lengths_are_of_the_tasks_and_say_where_from() -> None:
    stored = json.loads(HISTOGRAMS.read_text(encoding="utf-8"))
    assert "GLUE" in stored["source"]
    assert set(stored["tasks"]) <= set(TASKS)
    assert len(built_in_lengths("sst2")) == 872
    assert all(3 <= length <= 128 for task in stored["tasks"] for length in built_in_lengths(task))


def test_no_such_task() -> None:
    with pytest.raises(BqcError, match="no built-in lengths of 'squad': there are sst2, "):
        built_in_lengths("squad")


def test_measured_lengths(tmp_path: Path) -> None:
    assert "good" in VOCABULARY
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    rows = "sentence\tlabel\na good film\t1\nbad\t0\n"
    (tmp_path / "glue" / "SST-2" / "dev.tsv").write_text(rows, encoding="utf-8")
    with pytest.raises(BqcError, match="no tokenizer"):
        measured_lengths("sst2", tmp_path, [tmp_path])
    write_tokenizer(tmp_path)
    assert measured_lengths("sst2", tmp_path, [tmp_path / "glue", tmp_path]) == [5, 3]

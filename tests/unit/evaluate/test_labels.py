"""A head whose classes are not the task's is refused."""

from __future__ import annotations

import pytest

from bqc.errors import BqcError
from bqc.evaluate.labels import check_labels
from bqc.evaluate.tasks import TASKS


def config(*names: str) -> dict[str, object]:
    return {"id2label": {str(index): name for index, name in enumerate(names)}}


@pytest.mark.parametrize("names", [("negative", "positive"), ("NEGATIVE", "POSITIVE"), ("neg", "pos")])
def test_the_right_names(names: tuple[str, ...]) -> None:
    assert check_labels(TASKS["sst2"], config(*names), 2)


def test_spelling_does_not_matter() -> None:
    assert check_labels(TASKS["mrpc"], config("Not equivalent", "Equivalent"), 2)


@pytest.mark.parametrize("given", [{}, config("LABEL_0", "LABEL_1")])
def test_no_names_prove_nothing(given: dict[str, object]) -> None:
    assert not check_labels(TASKS["sst2"], given, 2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("positive", "negative"), "0=positive, 1=negative, in another order than SST-2"),
        (("LABEL_1", "LABEL_0"), "not those of SST-2"),
        (("entailment", "contradiction"), "not those of SST-2"),
        (("negative", "neutral", "positive"), "not those of SST-2"),
    ],
)
def test_wrong_names(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(BqcError, match=message) as error:
        check_labels(TASKS["sst2"], config(*names), 2)
    assert "scored" not in str(error.value)  # training and sensitivity say it too


def test_wrong_count() -> None:
    with pytest.raises(BqcError, match="3 outputs and SST-2 needs 2: negative, positive"):
        check_labels(TASKS["sst2"], {}, 3)
    with pytest.raises(BqcError, match="2 outputs and STS-B needs 1: a single score"):
        check_labels(TASKS["stsb"], {}, 2)
    with pytest.raises(BqcError, match="has 1 output and SST-2 needs 2"):
        check_labels(TASKS["sst2"], {}, 1)
    assert not check_labels(TASKS["stsb"], config("score"), 1)

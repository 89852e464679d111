"""Answers as spans: windows, targets, the choice of a span, and the official scores."""

from __future__ import annotations

import collections
import json
import os
import re
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bqc.errors import BqcError
from bqc.evaluate import evaluate
from bqc.evaluate.data import read_local
from bqc.evaluate.spans import Answers, SpanTask, exact_match, normalize_answer, token_f1
from bqc.evaluate.tasks import Examples, Features, find_task
from bqc.evaluate.tokens import Encoding, TextEncoder
from tests.support.tiny_encoder import VOCABULARY, write_classifier, write_reader, write_tokenizer

TASK = find_task("squad")
CONTEXT = " The film, a very good film; is not bad."
EXAMPLES = Examples(
    [("is the film bad", CONTEXT), ("the film", "good bad")],
    [Answers(("very good", "good"), (13, 18)), Answers(("bad",), (5,))],
)


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    write_tokenizer(tmp_path)
    return TextEncoder(tmp_path, 40)


def span(features: Features, window: int) -> str:
    """The text of a window's target."""
    first, last = features.targets[window]
    offsets = features.anchors[window]
    return EXAMPLES.texts[features.owners[window]][1][offsets[first, 0] : offsets[last, 1]]


def test_one_window(encoder: TextEncoder) -> None:
    features = TASK.features(EXAMPLES, encoder)
    assert features.owners.tolist() == [0, 1]
    assert [span(features, window) for window in (0, 1)] == ["very good", "bad"]
    # [CLS] is the film bad [SEP] The film , a very good film ; is not bad . [SEP]
    assert features.encodings[0].types == [0] * 6 + [1] * 13
    assert (features.anchors[0][:, 0] < 0).tolist() == [True] * 6 + [False] * 12 + [True]
    batch, targets = features.pad([1, 0], encoder)
    assert batch.ids.shape == (2, 19)
    assert targets.tolist() == [[5, 5], [10, 11]]


def test_windows_overlap_and_cover(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    features = TASK.features(EXAMPLES, TextEncoder(tmp_path, 16))
    windows = [row for row, owner in enumerate(features.owners) if owner == 0]
    assert len(windows) == 2
    seen = [{tuple(place) for place in features.anchors[row] if place[0] >= 0} for row in windows]
    assert len(seen[0] & seen[1]) == 16 // 3
    assert len(seen[0] | seen[1]) == 12
    assert all(len(item.ids) <= 16 for item in features.encodings)
    # An answer that a window does not hold whole is no answer there.
    late = Examples(EXAMPLES.texts[:1], [Answers(("is not bad",), (29,))])
    assert TASK.features(late, TextEncoder(tmp_path, 16)).targets.tolist() == [[0, 0], [10, 12]]


def test_a_long_question_is_cut_before_its_context(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    long = Examples([("good " * 300, "the bad film")], [Answers(("bad",), (4,))])
    features = TASK.features(long, TextEncoder(tmp_path, 128))
    assert len(features) == 1
    assert len(features.encodings[0].ids) == 42 + 3 + 3  # a third of 128 tokens
    with pytest.raises(BqcError, match="--max-length 16 or more"):
        TASK.features(long, TextEncoder(tmp_path, 15))


def scores(tokens: int, starts: dict[int, float], ends: dict[int, float]) -> np.ndarray:
    values = np.zeros((tokens, 2), dtype=np.float32)
    for side, values_of in enumerate((starts, ends)):
        for token, value in values_of.items():
            values[token, side] = value
    return values


def test_the_best_span_is_a_span_of_the_context(encoder: TextEncoder) -> None:
    examples = Examples(EXAMPLES.texts[:1], EXAMPLES.labels[:1])
    features = TASK.features(examples, encoder)

    def best(starts: dict[int, float], ends: dict[int, float]) -> str:
        return TASK.predictions(examples, features, [scores(19, starts, ends)])[0]

    assert best({10: 5}, {11: 5}) == "very good"
    assert best({1: 9, 10: 5}, {2: 9, 11: 5}) == "very good"  # the question is no place for an answer
    assert best({0: 9, 10: 5}, {18: 9, 11: 5}) == "very good"  # nor are [CLS] and [SEP]
    assert best({12: 9, 10: 5}, {11: 3}) == "film"  # no span ends before it starts
    assert best({10: 5, 14: 4}, {11: 4, 16: 4.5}) == "very good film; is not bad"


def test_the_longest_answer() -> None:
    text = " ".join("x" * 50)
    offsets = np.asarray([(2 * token, 2 * token + 1) for token in range(50)])
    examples = Examples([("q", text)], [Answers(("x",), (0,))])
    features = Features(
        [Encoding([0] * 50, [0] * 50)], np.zeros(1, dtype=np.int64), np.zeros((1, 2)), [offsets]
    )

    def words(last: int) -> int:
        found = TASK.predictions(examples, features, [scores(50, {0: 9}, {last: 9, 3: 5})])
        return len(found[0].split())

    assert words(29) == 30
    assert words(30) == 4


def test_the_best_window_wins(encoder: TextEncoder) -> None:
    offsets = [np.asarray([(-1, -1), (0, 4), (5, 8)]), np.asarray([(-1, -1), (5, 8), (9, 12)])]
    examples = Examples([("q", "good bad the")], [Answers(("bad",), (5,))])
    features = Features(
        [Encoding([0] * 3, [0] * 3)] * 2, np.zeros(2, dtype=np.int64), np.zeros((2, 2)), offsets
    )
    outputs = [scores(3, {1: 1}, {1: 2}), scores(3, {1: 2}, {1: 2})]
    assert TASK.predictions(examples, features, outputs) == ["bad"]
    assert TASK.predictions(examples, features, outputs[::-1]) == ["good"]
    nothing = Features(features.encodings, features.owners, features.targets, [np.full((3, 2), -1)] * 2)
    assert TASK.predictions(examples, nothing, outputs) == [""]


@pytest.mark.parametrize(
    ("prediction", "answer", "match", "f1"),
    [
        ("The Eiffel Tower.", "eiffel tower", 1, 1),
        ("in the Eiffel Tower", "Eiffel Tower", 0, 2 * 2 / 5),
        ("tower tower", "tower", 0, 2 / 3),
        ("Paris", "London", 0, 0),
        ("", "London", 0, 0),
        ("1,000", "1000", 1, 1),
        ("theatre", "a theatre", 1, 1),
        ("the", "a", 1, 0),  # the official script's F1 of two empty answers is 0
    ],
)
def test_scores_by_hand(prediction: str, answer: str, match: float, f1: float) -> None:
    assert exact_match(prediction, answer) == match
    assert token_f1(prediction, answer) == pytest.approx(f1)


def official_f1(prediction: str, answer: str) -> tuple[float, float]:
    """EM and F1 as evaluate-v1.1.py defines them, step by step."""

    def words(text: str) -> list[str]:
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    found, right = words(prediction), words(answer)
    same = sum(min(found.count(word), right.count(word)) for word in collections.Counter(found))
    if same == 0:
        return float(" ".join(found) == " ".join(right)), 0.0
    precision, recall = same / len(found), same / len(right)
    return float(" ".join(found) == " ".join(right)), 2 * precision * recall / (precision + recall)


_PHRASES = st.lists(
    st.sampled_from(["the", "A", "an", "film", "Film.", "(film)", "ban-an", "1,5", "é"]), max_size=6
)


@given(_PHRASES, _PHRASES)
def test_scores_are_the_official_ones(first: list[str], second: list[str]) -> None:
    prediction, answer = " ".join(first), "  ".join(second)
    match, f1 = official_f1(prediction, answer)
    assert exact_match(prediction, answer) == match
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_the_best_of_the_answers_counts() -> None:
    assert TASK.score(EXAMPLES, ["good", "bad film"]) == pytest.approx(
        {"exact_match": 0.5, "f1": (1 + 2 / 3) / 2}
    )


def test_a_model_end_to_end(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    paragraphs = []
    for (question, context), right in zip(EXAMPLES.texts, EXAMPLES.labels, strict=True):
        answers = [
            {"text": text, "answer_start": start}
            for text, start in zip(right.texts, right.starts, strict=True)
        ]
        paragraphs.append({"context": context, "qas": [{"question": question, "answers": answers}]})
    (tmp_path / "dev-v1.1.json").write_text(
        json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8"
    )
    weight = np.zeros((len(VOCABULARY), 2))
    weight[VOCABULARY.index("very"), 0] = weight[VOCABULARY.index("good"), 1] = 3  # "very good", or "good"
    weight[VOCABULARY.index("bad"), 0] = weight[VOCABULARY.index("bad"), 1] = 2  # else "bad"
    model = write_reader(tmp_path / "model.onnx", weight)
    for length in (None, 16):
        result = evaluate(model, "squad", tmp_path, max_length=length)
        assert result.metrics == {"f1": 1.0, "exact_match": 1.0}
        assert (result.examples, result.head) == (2, "spans")
        assert result.features == (2 if length is None else 3)
    classifier = write_classifier(tmp_path / "classifier" / "model.onnx")
    with pytest.raises(BqcError, match="the task needs a start and an end score a token"):
        evaluate(classifier, "squad", tmp_path, tokenizer=tmp_path)
    with pytest.raises(
        BqcError, match=r"gives a start and an end score a token \(start_logits, end_logits\)"
    ):
        evaluate(model, "sst2", tmp_path)


def test_three_outputs_a_token_are_no_span() -> None:
    with pytest.raises(BqcError, match=r"3 outputs a token and SQuAD 1\.1 needs 2"):
        TASK.fit({}, 3)


def test_gold_answers_score_one_on_the_real_data() -> None:
    folder = Path(os.environ.get("BQC_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (folder / "squad").is_dir():
        pytest.skip("no SQuAD data beside the checkout")
    assert isinstance(TASK, SpanTask)
    examples = read_local(TASK, folder)
    found = TASK.score(examples, [answers.texts[0] for answers in examples.labels])
    # Three right answers are an article or punctuation only, of which the official F1 is 0.
    empty = sum(not any(normalize_answer(text) for text in answers.texts) for answers in examples.labels)
    assert found["exact_match"] == 1.0
    assert found["f1"] == pytest.approx(1 - empty / len(examples))
    assert empty <= 3

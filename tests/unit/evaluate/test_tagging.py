"""Tags of words: which token stands for a word, and what counts as an entity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from bqc.cli import main
from bqc.errors import BqcError
from bqc.evaluate import evaluate
from bqc.evaluate.tasks import IGNORED, Examples, find_task
from bqc.evaluate.tokens import TextEncoder
from tests.support.tiny_encoder import VOCABULARY, write_classifier, write_tagger, write_tokenizer

TASK = find_task("conll03")
TAGS = list(TASK.labels)
SENTENCES = [("good", "film", "the-a", "bad"), ("the", "bad"), ("bad",)]
GOLD = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC"], ["B-LOC"]]


def examples(sentences: list[tuple[str, ...]] = SENTENCES, gold: list[list[str]] = GOLD) -> Examples:
    return Examples(sentences, [np.asarray([TAGS.index(tag) for tag in tags]) for tags in gold])


def table(names: list[str], **words: str) -> np.ndarray:
    """A tag for each of these words, and O for the rest."""
    weight = np.zeros((len(VOCABULARY), len(names)))
    weight[:, names.index("O")] = 1
    for word, tag in words.items():
        weight[VOCABULARY.index(word), names.index(tag)] = 2
    return weight


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SENTENCES in a CoNLL file, and a tokenizer that cuts ``the-a`` in three."""
    write_tokenizer(tmp_path)
    lines = [
        "".join(f"{word} X X {tag}\n" for word, tag in zip(words, tags, strict=True))
        for words, tags in zip(SENTENCES, GOLD, strict=True)
    ]
    (tmp_path / "valid.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_targets_are_at_first_tokens(folder: Path) -> None:
    encoder = TextEncoder(folder)
    features = TASK.features(examples(), encoder)
    # [CLS] good film the - a bad [SEP]
    assert features.anchors[0].tolist() == [1, 2, 3, 6]
    batch, targets = features.pad([1, 0], encoder)
    assert batch.ids.shape == (2, 8)
    person = [
        IGNORED,
        TAGS.index("B-PER"),
        TAGS.index("I-PER"),
        0,
        IGNORED,
        IGNORED,
        TAGS.index("B-LOC"),
        IGNORED,
    ]
    assert targets.tolist() == [[IGNORED, 0, TAGS.index("B-LOC"), *[IGNORED] * 5], person]


def test_words_that_are_cut_off_count_as_outside(folder: Path) -> None:
    features = TASK.features(examples(), TextEncoder(folder, 5))
    assert features.anchors[0].tolist() == [1, 2, 3, -1]
    outputs = [np.eye(9, dtype=np.float32)[np.full(5, TAGS.index("B-LOC"))] for _ in SENTENCES]
    predictions = TASK.predictions(examples(), features, outputs)
    assert predictions[0] == ["B-LOC", "B-LOC", "B-LOC", "O"]


def test_gold_tags_score_one() -> None:
    assert TASK.score(examples(), GOLD) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}


def test_entities_are_whole_or_wrong() -> None:
    # Of the entities PER(0, 1), LOC(3), LOC(1), LOC(0): one cut short, one of another type, two right, one too many.
    predicted = [["B-PER", "O", "B-ORG", "B-MISC"], ["O", "B-LOC"], ["B-LOC"]]
    precision, recall = 2 / 5, 2 / 4
    expected = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
    assert TASK.score(examples(), predicted) == pytest.approx(expected)


def test_a_model_end_to_end(folder: Path) -> None:
    model = write_tagger(folder / "model.onnx", table(TAGS, good="B-PER", film="I-PER", bad="B-LOC"))
    result = evaluate(model, "conll03", folder, batch_size=2)
    assert result.metrics == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert (result.examples, result.head, result.labels_checked) == (3, "tags", False)


def test_tags_go_by_name(folder: Path) -> None:
    names = ["B-LOC", "I-PER", "B-PER", "O"]  # another order, and not all of them
    model = write_tagger(folder / "model.onnx", table(names, good="B-PER", film="I-PER", bad="B-LOC"), names)
    result = evaluate(model, "conll03", folder)
    assert result.metrics["f1"] == 1.0
    assert result.labels_checked


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["O", "B-PER", "B-GENE"], "config.json gives the tags O, B-PER, B-GENE, not those of CoNLL-03"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], "3 outputs a token and CoNLL-03 needs 9"),
        (["B-PER", "B-LOC", "I-LOC"], "not those of CoNLL-03"),
        (["O", "B-PER"], "names 2 labels .* and the model has 3 outputs"),
    ],
)
def test_other_tags_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(BqcError, match=message):
        TASK.fit({"id2label": dict(enumerate(names))}, 3)


def test_heads_of_other_tasks(folder: Path) -> None:
    tagger = write_tagger(folder / "tagger" / "model.onnx", table(TAGS))
    with pytest.raises(
        BqcError, match=r"gives one output a token \(logits\) and the task needs one output a text"
    ):
        evaluate(tagger, "sst2", folder, tokenizer=folder)
    classifier = write_classifier(folder / "classifier" / "model.onnx")
    with pytest.raises(
        BqcError, match=r"gives one output a text \(logits\) and the task needs one output a token"
    ):
        evaluate(classifier, "conll03", folder, tokenizer=folder)


def test_a_nan_is_not_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tagger(folder / "model.onnx", np.full((len(VOCABULARY), 9), np.nan))
    assert main(["eval", str(model), "--task", "conll03", "--data", str(folder)]) == 2
    assert "NaN or infinity" in capsys.readouterr().err


def test_byte_level_words_begin_with_a_space(tmp_path: Path) -> None:
    """RoBERTa's vocabulary tells a word's beginning by the space before it, also for words given one by one."""
    vocabulary = {"a": 0, "b": 1, "Ġ": 2, "Ġa": 3, "Ġb": 4, "[PAD]": 5}
    tokenizer = Tokenizer(BPE(vocabulary, [("Ġ", "a"), ("Ġ", "b")]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encodings, firsts = TextEncoder(tmp_path).encode_words([("a", "ba")])
    assert encodings[0].ids == [3, 4, 0]
    assert firsts[0].tolist() == [0, 1]

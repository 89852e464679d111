"""The tasks there are, and all that evaluation, training and calibration need of one.

    task = find_task("sst2")
    examples = load_examples(task, data, "train")
    features = task.features(examples, TextEncoder(folder, default=task.max_length))
    batch, targets = features.pad(rows, encoder)              # token ids, mask, types; what to learn
    predictions = task.predictions(examples, features, outputs)
    metrics = task.score(examples, predictions)

A new task of a known kind is one entry of ``TASKS``; docs/tasks.md describes each.
"""

from __future__ import annotations

import difflib

from bqc.errors import BqcError
from bqc.evaluate.columns import column_task
from bqc.evaluate.data import SPLITS, load_examples
from bqc.evaluate.sentences import SentenceTask
from bqc.evaluate.sources import ConllFiles, GlueFiles, HubAnswers, HubRows, HubWords, SquadFile
from bqc.evaluate.spans import Answers, SpanTask
from bqc.evaluate.tagging import TaggingTask
from bqc.evaluate.task import IGNORED, Examples, Features, Task

__all__ = [
    "IGNORED",
    "SPLITS",
    "TASKS",
    "Answers",
    "Examples",
    "Features",
    "SentenceTask",
    "SpanTask",
    "TaggingTask",
    "Task",
    "column_task",
    "find_task",
    "load_examples",
]

_GLUE = "nyu-mll/glue"
_NLI = ("entailment", "neutral", "contradiction")


def _mnli(name: str, title: str, part: str) -> SentenceTask:
    return SentenceTask(
        name=name,
        title=title,
        labels=_NLI,
        metrics=("accuracy",),
        local=GlueFiles("MNLI", ("sentence1", "sentence2"), "gold_label", files={"dev": f"dev_{part}.tsv"}),
        hub=HubRows(
            _GLUE, "mnli", ("premise", "hypothesis"), splits={"train": "train", "dev": f"validation_{part}"}
        ),
        pair=True,
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        SentenceTask(
            name="sst2",
            title="SST-2",
            labels=("negative", "positive"),
            synonyms={"neg": "negative", "pos": "positive"},
            metrics=("accuracy",),
            local=GlueFiles("SST-2", ("sentence",), "label"),
            hub=HubRows(_GLUE, "sst2", ("sentence",)),
        ),
        SentenceTask(
            name="mrpc",
            title="MRPC",
            labels=("not_equivalent", "equivalent"),
            synonyms={"not_paraphrase": "not_equivalent", "paraphrase": "equivalent"},
            metrics=("accuracy", "f1"),
            local=GlueFiles("MRPC", (3, 4), 0),
            hub=HubRows(_GLUE, "mrpc", ("sentence1", "sentence2")),
            pair=True,
        ),
        SentenceTask(
            name="cola",
            title="CoLA",
            labels=("unacceptable", "acceptable"),
            synonyms={
                "not_acceptable": "unacceptable",
                "ungrammatical": "unacceptable",
                "grammatical": "acceptable",
            },
            metrics=("matthews",),
            local=GlueFiles("CoLA", (3,), 1, header=False),
            hub=HubRows(_GLUE, "cola", ("sentence",)),
        ),
        SentenceTask(
            name="stsb",
            title="STS-B",
            regression=True,
            metrics=("spearman", "pearson"),
            local=GlueFiles("STS-B", (-3, -2), -1),
            hub=HubRows(_GLUE, "stsb", ("sentence1", "sentence2")),
            pair=True,
        ),
        SentenceTask(
            name="rte",
            title="RTE",
            labels=("entailment", "not_entailment"),
            metrics=("accuracy",),
            local=GlueFiles("RTE", ("sentence1", "sentence2"), "label"),
            hub=HubRows(_GLUE, "rte", ("sentence1", "sentence2")),
            pair=True,
        ),
        SentenceTask(
            name="qnli",
            title="QNLI",
            labels=("entailment", "not_entailment"),
            metrics=("accuracy",),
            local=GlueFiles("QNLI", ("question", "sentence"), "label"),
            hub=HubRows(_GLUE, "qnli", ("question", "sentence")),
            pair=True,
        ),
        SentenceTask(
            name="qqp",
            title="QQP",
            labels=("not_duplicate", "duplicate"),
            synonyms={
                "different": "not_duplicate",
                "not_paraphrase": "not_duplicate",
                "paraphrase": "duplicate",
            },
            metrics=("accuracy", "f1"),
            local=GlueFiles("QQP", ("question1", "question2"), "is_duplicate", drop_short=True),
            hub=HubRows(_GLUE, "qqp", ("question1", "question2")),
            pair=True,
        ),
        _mnli("mnli", "MNLI-m", "matched"),
        _mnli("mnlimm", "MNLI-mm", "mismatched"),
        SentenceTask(
            name="wnli",
            title="WNLI",
            labels=("not_entailment", "entailment"),
            metrics=("accuracy",),
            local=GlueFiles("WNLI", ("sentence1", "sentence2"), "label"),
            hub=HubRows(_GLUE, "wnli", ("sentence1", "sentence2")),
            pair=True,
            order_shows=False,  # its dev rows contradict its train rows: good models are below chance on them
        ),
        SpanTask(
            name="squad",
            title="SQuAD 1.1",
            metrics=("f1", "exact_match"),
            local=SquadFile(
                "squad",
                {
                    split: (f"{split}-v1.1.json", f"{split}-v1.1.reconstructed.json")
                    for split in ("dev", "train")
                },
            ),
            hub=HubAnswers("rajpurkar/squad"),
        ),
        TaggingTask(
            name="conll03",
            title="CoNLL-03",
            labels=("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
            metrics=("f1", "precision", "recall"),
            local=ConllFiles(
                "conll03", {"dev": ("valid.txt", "eng.testa"), "train": ("train.txt", "eng.train")}
            ),
            # The repository itself is a script, which datasets no longer runs; this is the hub's own conversion.
            hub=HubWords("eriktks/conll2003", "conll2003", revision="refs/convert/parquet"),
        ),
    )
}

_ALIASES = {
    "mnlim": "mnli",
    "conll2003": "conll03",
    "conll": "conll03",
    "squadv1.1": "squad",
    "squad1.1": "squad",
}


def find_task(name: str) -> Task:
    """The task called ``name``, in any case and with or without a hyphen.

    Raises:
        BqcError: there is none; the message names the nearest and all there are.
    """
    key = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    key = _ALIASES.get(key, key)
    if key in TASKS:
        return TASKS[key]
    near = difflib.get_close_matches(key, TASKS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BqcError(f"no task '{name}': {hint}known tasks are {', '.join(TASKS)}")

"""The tasks there are. A new one of the same kind is one entry."""

from __future__ import annotations

import difflib

from bqc.errors import BqcError
from bqc.evaluate.task import HubSource, LocalSource, Task

__all__ = ["TASKS", "find_task"]

_GLUE = "nyu-mll/glue"

TASKS = {
    task.name: task
    for task in (
        Task(
            name="sst2",
            title="SST-2",
            labels=("negative", "positive"),
            synonyms={"neg": "negative", "pos": "positive"},
            metrics=("accuracy",),
            local=LocalSource("SST-2", text=("sentence",), label="label"),
            hub=HubSource(_GLUE, "sst2", ("sentence",)),
        ),
        Task(
            name="mrpc",
            title="MRPC",
            labels=("not_equivalent", "equivalent"),
            synonyms={"not_paraphrase": "not_equivalent", "paraphrase": "equivalent"},
            metrics=("accuracy", "f1"),
            local=LocalSource("MRPC", text=(3, 4), label=0),
            hub=HubSource(_GLUE, "mrpc", ("sentence1", "sentence2")),
        ),
        Task(
            name="cola",
            title="CoLA",
            labels=("unacceptable", "acceptable"),
            synonyms={
                "not_acceptable": "unacceptable",
                "ungrammatical": "unacceptable",
                "grammatical": "acceptable",
            },
            metrics=("matthews",),
            local=LocalSource("CoLA", text=(3,), label=1, header=False),
            hub=HubSource(_GLUE, "cola", ("sentence",)),
        ),
        Task(
            name="stsb",
            title="STS-B",
            labels=(),
            metrics=("spearman", "pearson"),
            local=LocalSource("STS-B", text=(-3, -2), label=-1),
            hub=HubSource(_GLUE, "stsb", ("sentence1", "sentence2")),
        ),
    )
}


def find_task(name: str) -> Task:
    """The task called ``name``, in any case and with or without a hyphen.

    Raises:
        BqcError: there is none; the message names the nearest and all there are.
    """
    key = name.lower().replace("-", "").replace("_", "")
    if key in TASKS:
        return TASKS[key]
    near = difflib.get_close_matches(key, TASKS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BqcError(f"no task '{name}': {hint}known tasks are {', '.join(TASKS)}")

"""`analyze`: the scores of every part of a model by one metric."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bqc.artifact import file_sha256
from bqc.errors import BqcError
from bqc.evaluate.rows import nearest
from bqc.evaluate.tasks import Task
from bqc.formats import BlockShift
from bqc.formats.stored import WeightFormat
from bqc.passes._graph import constant
from bqc.passes._weights import weights_digest
from bqc.sensitivity.fisher import Fisher
from bqc.sensitivity.hessian import Hessian
from bqc.sensitivity.hessian_trace import HessianTrace
from bqc.sensitivity.kl import Kl
from bqc.sensitivity.metric import Metric
from bqc.sensitivity.mse import Mse
from bqc.sensitivity.options import BLOCKS, Options
from bqc.sensitivity.parts import ACTIVATION, WEIGHT, Part, activation_parts, weight_parts
from bqc.sensitivity.resume import Journal, answered
from bqc.sensitivity.scores import Score, Sensitivity
from bqc.sensitivity.subject import Sample, Subject, from_file, from_task
from bqc.sensitivity.weight_error import WeightError

__all__ = ["DEFAULT_METRIC", "METRICS", "analyze"]


_CLASSES: dict[str, type[Metric]] = {
    kind.name: kind for kind in (WeightError, Mse, Kl, Fisher, Hessian, HessianTrace)
}
METRICS = tuple(_CLASSES)
"""From data-free to data-rich."""
DEFAULT_METRIC = "kl"

_LEAST_BITS = 4
"""Activations have operators for 4, 6 and 8 bits."""


def analyze(
    path: str | Path,
    metric: str = DEFAULT_METRIC,
    formats: Sequence[WeightFormat] = (BlockShift(8), BlockShift(4)),
    *,
    parts: Sequence[str] = (WEIGHT,),
    task: Task | None = None,
    data: str | Path | None = None,
    split: str = "train",
    inputs: str | Path | None = None,
    options: Options | None = None,
    tokenizer: str | Path | None = None,
    threads: int | None = None,
    journal: Path | None = None,
    earlier: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Score every part of a float model, each quantised alone.

    Args:
        path: the float ``.onnx`` file.
        metric: one of ``METRICS``.
        formats: formats to score; activations have those of 4 bits and more.
        parts: ``weight``, ``activation`` or both.
        task: gives labelled examples: metrics of gradients need one.
        data: folder or file of the task.
        split: ``train`` or ``dev``; examples are drawn from it at random.
        inputs: a ``.npz`` of inputs, for metrics without labels.
        options: numbers of examples, subsets, iterations; the seed.
        tokenizer: folder of ``tokenizer.json``, if it is not beside the model.
        threads: of ONNX Runtime and torch.
        journal: where finished scores are kept until all are there: an analysis that was killed goes on from it.
        earlier: a file that may hold the result of an earlier call: if it answers the same question, by the same
            version of bqc, its scores are returned and nothing is measured.
        progress: called with (parts done, parts in all).

    Raises:
        BqcError: no such metric or part, the metric lacks the data it needs or does not have such parts, or the
            model cannot be read.
    """
    path, options = Path(path), options or Options()
    kind = _checked(metric, parts, options, task, inputs)
    sample = None
    if kind.needs != "nothing":
        sample = _sample(path, kind, task, data, split, inputs, options, tokenizer)
    with Subject(path, sample, threads) as subject:
        todo = _parts(subject, parts, formats)
        asked = Sensitivity(
            metric=metric,
            model=file_sha256(path),
            formats=tuple(map(str, formats)),
            sample="" if sample is None else sample.description,
            options=asdict(options),
            scores=(),
            weights=weights_digest(subject.model),
        )
        asked = replace(asked, question=_question(asked, todo, subject))
        known = answered(earlier, asked.question)
        if known is not None:
            return known
        kept = Journal(journal, asked.question)
        measure = kind(subject, options)
        scores = []
        for done, (part, chosen) in enumerate(todo):
            if progress:
                progress(done, len(todo))
            score = kept.found.get((part.kind, part.key))
            if score is None:
                score = _score(measure, part, chosen)
                kept.add(score)
            scores.append(score)
        if progress:
            progress(len(todo), len(todo))
        return replace(asked, scores=tuple(scores))


def _score(measure: Metric, part: Part, formats: Sequence[WeightFormat]) -> Score:
    start = time.perf_counter()
    found, details = measure(part, formats)
    bad = next((fmt for fmt, value in found.items() if not np.isfinite(value)), None)
    if bad is not None:
        raise BqcError(f"{part.key} in {bad}: the score is not a finite number; the model's outputs hold NaN")
    return Score(part.kind, part.key, found, list(part.also), details, round(time.perf_counter() - start, 3))


def _checked(
    metric: str, parts: Sequence[str], options: Options, task: Task | None, inputs: object
) -> type[Metric]:
    if metric not in _CLASSES:
        raise BqcError(f"no metric '{metric}'{nearest(metric, METRICS)}")
    kind = _CLASSES[metric]
    for part in parts:
        if part not in (WEIGHT, ACTIVATION):
            raise BqcError(f"no parts '{part}'{nearest(part, (WEIGHT, ACTIVATION))}")
        if part not in kind.kinds:
            raise BqcError(f"{metric} is of weights; {part}s can be scored by mse and kl")
    if options.block not in BLOCKS:
        raise BqcError(f"no block '{options.block}'{nearest(options.block, BLOCKS)}")
    if options.seed < 0:
        raise BqcError(f"a seed is a number from 0 on, not {options.seed}")
    if task is not None and inputs is not None:
        raise BqcError("examples come from --task or from --inputs; give one of them")
    if kind.needs == "labels" and task is None:
        raise BqcError(f"{metric} takes gradients of a loss, which needs labels: give --task")
    if kind.needs == "inputs" and task is None and inputs is None:
        raise BqcError(f"{metric} runs the model: give --task, or --inputs FILE.npz")
    return kind


def _sample(
    path: Path,
    kind: type[Metric],
    task: Task | None,
    data: str | Path | None,
    split: str,
    inputs: str | Path | None,
    options: Options,
    tokenizer: str | Path | None,
) -> Sample:
    if task is None:
        assert inputs is not None, "checked before"
        return from_file(path, Path(inputs))
    count = options.examples * (options.subsets if kind.in_subsets else 1)
    folder = None if data is None else Path(data)
    return from_task(
        path, task, folder, split, count, options.seed, None if tokenizer is None else Path(tokenizer)
    )


def _parts(
    subject: Subject, kinds: Sequence[str], formats: Sequence[WeightFormat]
) -> list[tuple[Part, Sequence[WeightFormat]]]:
    found: list[tuple[Part, Sequence[WeightFormat]]] = []
    if WEIGHT in kinds:
        found += [(part, formats) for part in weight_parts(subject.model)]
    if ACTIVATION in kinds:
        fine = [fmt for fmt in formats if isinstance(fmt, BlockShift) and fmt.bits >= _LEAST_BITS]
        if not fine:
            raise BqcError(f"activations have formats of {_LEAST_BITS} bits and more; add one to --formats")
        found += [(part, fine) for part in activation_parts(subject.model)]
    return found


def _question(asked: Sensitivity, todo: Sequence[tuple[Part, object]], subject: Subject) -> str:
    """Digest of what is asked, of the numbers of the model, and of inputs and labels, wherever they came from."""
    about = {**asked.to_dict(), "parts": [f"{one.kind} {one.key}" for one, _ in todo], "bqc": version("bqc")}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in subject.model.graph.initializers.items():
        data = constant(value)
        digest.update(f"{name} {None if data is None else (data.dtype, data.shape)}".encode())
        digest.update(b"" if data is None else data.tobytes())
    if subject.sample is not None:
        features = subject.sample.features
        for item in features.encodings:
            digest.update(np.asarray([*item.ids, -1, *item.types, -1]).tobytes())
        for target in features.targets:
            digest.update(np.asarray(target).tobytes())
    return digest.hexdigest()

"""`bqc train`: from a float encoder to a trained one, float or compiled."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from bqc.artifact import (
    INLINE_LIMIT,
    file_sha256,
    inline_bytes,
    output_path,
    require_own_files,
    require_writable,
    tokenizer_files,
    write,
)
from bqc.compiler import compile as compile_model
from bqc.errors import BqcError
from bqc.evaluate.data import load_examples
from bqc.evaluate.files import read_json
from bqc.evaluate.labels import output_count
from bqc.evaluate.task import Examples, Task
from bqc.evaluate.tasks import find_task
from bqc.evaluate.tokens import TextEncoder
from bqc.formats import Static
from bqc.formats.static import static_exponent
from bqc.ir import encoder, import_model
from bqc.passes.plan_binarybert import Spent
from bqc.plan import Plan
from bqc.runtime.inputs import EncoderInputs
from bqc.train.distillation import layer_map, taps_for
from bqc.train.dropout import dropout_of
from bqc.train.examples import Collator, Rows
from bqc.train.heads import trained_head
from bqc.train.identity import begin, rows_digest, weights_digest
from bqc.train.loop import Run, first_process, run_stages
from bqc.train.module import OnnxModule, module
from bqc.train.prepared import FLOAT, Prepared, chosen_scheme, default_recipe, prepare
from bqc.train.recipe import RECIPE_KEY, Recipe
from bqc.train.slimming import MODEL, Kept, slim_recipe, slimmed

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a training run gave.

    Attributes:
        paths: files written, the model first.
        metrics: scores of the trained module on the dev rows, as fractions.
        recipe: what was done.
        seconds: time spent.
        module: the trained module, in evaluation mode: what the written model computes, in torch.
        slim: scores of the slim float model that the training for the scheme began with, if there was one.
        kept: the heads and FFN neurons of that model.
        spent: how the weights use the scheme's budget, if there is one.
    """

    paths: tuple[Path, ...]
    metrics: dict[str, float]
    recipe: Recipe
    seconds: float
    module: OnnxModule
    slim: dict[str, float] | None = None
    kept: Kept | None = None
    spent: Spent | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "paths": [str(path) for path in self.paths],
            "metrics": self.metrics,
            **({} if self.slim is None else {"slim_metrics": self.slim}),
            **({} if self.kept is None else {"kept": self.kept.to_dict()}),
            **({} if self.spent is None else {"budget": asdict(self.spent)}),
            "recipe": self.recipe.model_dump(mode="json"),
            "seconds": round(self.seconds, 2),
        }


def train(
    model: str | Path,
    task: str | Task,
    data: str | Path | None = None,
    output: str | Path | None = None,
    *,
    scheme: str = "bbct",
    options: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    teacher: str | Path | None = None,
    tokenizer: str | Path | None = None,
    checkpoints: str | Path | None = None,
    resume: bool = False,
    save_steps: int = 0,
    limit: int | None = None,
    width: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Train an encoder on a task and write the result: compiled by the scheme, or float for ``none``.

    Args:
        model: the float ``.onnx`` file; its configuration lies beside it.
        task, data: as in `bqc.evaluate.evaluate`.
        output: as in `bqc.compile`; the float model is called ``NAME.tuned.onnx`` if not given.
        scheme: the scheme to train for, or ``none``.
        options: the scheme's options (weight_bits, ...).
        recipe: stages and settings; `default_recipe` if not given.
        teacher: the float model to distill from; ``model`` itself if not given.
        tokenizer: folder of ``tokenizer.json``, if it is not beside the model.
        checkpoints: folder for checkpoints and logs; a temporary one if not given.
        resume: go on from the last checkpoint there, which must be of the same run: `bqc.train.identity`.
        save_steps: steps between checkpoints; 0 saves after each epoch.
        limit: train on the first rows only.
        width: below 1, so many of the heads and FFN neurons are kept first (`bqc.train.slimming`), and what is left
            learns from ``teacher`` before it is trained for the scheme and is then its own teacher. `slim-width`.
        progress: called with (steps done, steps in all) of every stage.

    Raises:
        BqcError: files, rows, options or recipe do not fit, the output cannot be written, the checkpoints are those of
            another run, or training diverged; nothing is written then.
    """
    started = time.perf_counter()
    task = find_task(task) if isinstance(task, str) else task
    if recipe is None:
        recipe = default_recipe(scheme, options)
    source = Path(model)
    kind = "tuned" if scheme == FLOAT else "bqc"
    target, side_files = output_path(source, None if output is None else str(output), kind)
    if resume and checkpoints is None:
        raise BqcError("to resume, give the folder of the interrupted run with --checkpoints")
    if width != 1 and scheme == FLOAT:
        raise BqcError("--width is a step before a scheme's training; --scheme none has none")
    if width != 1 and (options or {}).get("scores"):
        raise BqcError("scores are of one model, and --width makes another: leave out --scores or --width")
    if width != 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BqcError(
            "--width works in one process; make the slim model first, and give several processes that"
        )
    if first_process():
        require_writable(target)
    with tempfile.TemporaryDirectory(prefix="bqc-train-") as temporary:
        folder = Path(checkpoints or temporary)
        wanted = _Wanted(
            task,
            data,
            scheme,
            dict(options or {}),
            recipe,
            teacher,
            tokenizer,
            folder,
            resume,
            save_steps,
            limit,
            progress,
        )
        origin = source.parent if side_files else None
        if width == 1:
            trained = _train(source, target, origin, wanted)
        else:
            own, slim, kept = _slim(source, target, replace(wanted, width=width))
            if origin is not None:
                # The wide model's configuration stays as it is where the slim one is written beside it.
                origin = None if target.parent.resolve() == origin.resolve() else own.parent
            alone = replace(wanted, teacher=None, folder=folder / "scheme")
            trained = replace(_train(own, target, origin, alone), slim=slim, kept=kept)
    return replace(trained, seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class _Wanted:
    """What `train` was asked for."""

    task: Task
    data: str | Path | None
    scheme: str
    options: dict[str, Any]
    recipe: Recipe
    teacher: str | Path | None
    tokenizer: str | Path | None
    folder: Path
    resume: bool
    save_steps: int
    limit: int | None
    progress: Callable[[int, int], None] | None
    width: float = 1.0

    def tokenizer_of(self, model: Path) -> Path:
        """The folder of the tokenizer of a model."""
        return model.parent if self.tokenizer is None else Path(self.tokenizer)


@dataclass(frozen=True)
class _Subject:
    """A float model and the rows that it is trained on.

    Attributes:
        model: as imported.
        weights: digest of its weights.
        outputs, width: its head.
        config: config.json.
        task: as this model does it.
        text: the tokenizer.
        rows: all of the train split.
    """

    model: ir.Model
    weights: str
    outputs: tuple[str, ...]
    width: int
    config: dict[str, Any]
    task: Task
    text: TextEncoder
    rows: Examples

    @classmethod
    def read(cls, source: Path, wanted: _Wanted) -> _Subject:
        """Raises BqcError if the model, the tokenizer or the rows cannot be read or do not fit."""
        loaded, _ = import_model(source)
        config = read_json(source.with_name("config.json"))
        outputs, width = trained_head(loaded, wanted.task)
        task, _ = wanted.task.fit(config, width)
        text = TextEncoder(wanted.tokenizer_of(source), wanted.recipe.max_length)
        rows = load_examples(task, wanted.data, "train")
        return cls(loaded, weights_digest(loaded), outputs, width, config, task, text, rows)


def _slim(source: Path, target: Path, wanted: _Wanted) -> tuple[Path, dict[str, float], Kept]:
    """The file of a slim float model, trained, its scores and what it kept; a run that is resumed finds it there."""
    folder = wanted.folder / "slim"
    path = folder / MODEL
    wide = _Subject.read(source, wanted)
    before = encoder(wide.model)
    require_own_files(target, source, wide.model)
    teacher = wide.weights if wanted.teacher is None else weights_digest(import_model(wanted.teacher)[0])
    identity = _identity(source, wanted, wide, teacher)
    del wide  # a model in memory that training has no use for
    found = begin(wanted.folder, identity, resume=wanted.resume, first=first_process())
    if not (found and path.is_file()):
        path = slimmed(
            source,
            wanted.task,
            wanted.data,
            wanted.width,
            folder,
            seed=wanted.recipe.seed,
            tokenizer=wanted.tokenizer,
        )
    tuned = folder / "tuned" / MODEL
    alone = replace(
        wanted,
        scheme=FLOAT,
        options={},
        recipe=slim_recipe(wanted.recipe),
        teacher=wanted.teacher or source,
        folder=folder / "run",
        width=1.0,
    )
    trained = _train(path, tuned, folder, alone)
    return tuned, trained.metrics, Kept.of(encoder(import_model(path)[0]), before)


def _train(source: Path, target: Path, side_files_from: Path | None, wanted: _Wanted) -> TrainResult:
    started, recipe = time.perf_counter(), wanted.recipe
    subject = _Subject.read(source, wanted)
    loaded, task, text = subject.model, subject.task, subject.text
    require_own_files(target, source, loaded)
    dev = load_examples(task, wanted.data, "dev")
    prepared = prepare(loaded, wanted.scheme, wanted.options)
    spent = _spent(prepared, wanted)
    teaching = import_model(wanted.teacher or source)[0] if recipe.teacher else None
    theirs = None if teaching is None else weights_digest(teaching) if wanted.teacher else subject.weights
    identity = _identity(source, wanted, subject, theirs, prepared, dev)
    begin(wanted.folder, identity, resume=wanted.resume, first=first_process())
    inputs = EncoderInputs.of_model(loaded)
    collator = Collator(text, inputs)
    learned = Rows(task, subject.rows.head(wanted.limit), text)
    prepared = prepared.calibrated(_calibration(learned, collator, recipe))
    student = _student(prepared, recipe, subject.config)
    guide, outputs, layers, widths = _teacher(
        prepared, recipe, teaching, wanted.teacher or source, task, subject.width
    )

    def rewrite(trained: OnnxModule, passes: tuple[str, ...]) -> OnnxModule:
        nonlocal prepared
        prepared = prepared.rewritten(trained, passes)
        return _student(prepared, recipe, subject.config)

    run = Run(
        student,
        guide,
        outputs=(subject.outputs, outputs),
        layers=layers,
        widths=widths,
        task=task,
        train=learned,
        dev=Rows(task, dev, text),
        collator=collator,
        recipe=recipe,
        folder=wanted.folder,
        resume=wanted.resume,
        save_steps=wanted.save_steps,
        progress=wanted.progress,
        rewrite=rewrite,
    )
    metrics = run_stages(run)
    student = run.student
    student.write_back(loaded)
    loaded.metadata_props[RECIPE_KEY] = recipe.to_yaml()
    if not first_process():
        return TrainResult((), metrics, recipe, time.perf_counter() - started, student.eval())
    side_files = {} if wanted.tokenizer is None else tokenizer_files(Path(wanted.tokenizer))
    beside: dict[str, Any] = {"side_files_from": side_files_from, "side_files": side_files}
    if prepared.plan is None:
        one_file = inline_bytes(loaded) <= INLINE_LIMIT
        paths = write(loaded, target, single_file=one_file, **beside)
    else:
        plan = _rounded(Plan.of(loaded))
        paths = list(compile_model(loaded, wanted.scheme, target, recipe=plan, **beside).paths)
    seconds = time.perf_counter() - started
    return TrainResult(tuple(paths), metrics, recipe, seconds, student.eval(), spent=spent)


def _identity(
    source: Path,
    wanted: _Wanted,
    subject: _Subject,
    teacher: str | None,
    prepared: Prepared | None = None,
    dev: Examples | None = None,
) -> dict[str, Any]:
    """What a run that is resumed must have in common with the one before; what a user changes comes first."""
    options = {} if wanted.scheme == FLOAT else asdict(chosen_scheme(wanted.scheme, wanted.options))
    found: dict[str, Any] = {
        "scheme": wanted.scheme,
        "width": wanted.width,
        "limit": wanted.limit,
        "task": wanted.task.name,
        "model_weights": subject.weights,
        "teacher_weights": teacher,
        "training_rows": rows_digest(subject.rows),
        "tokenizer": file_sha256(wanted.tokenizer_of(source) / "tokenizer.json"),
        "options": options,
        "recipe": wanted.recipe.model_dump(mode="json"),
    }
    if dev is not None and wanted.recipe.keep_best:
        found["dev_rows"] = rows_digest(dev)
    if prepared is not None:
        found["relus"] = encoder(prepared.model).relus
        if prepared.plan is not None:
            found["weights"] = {key: str(fmt) for key, fmt in prepared.plan.weights.items()}
            found["activations"] = {key: str(fmt) for key, fmt in prepared.plan.activations.items()}
    return found


def _spent(prepared: Prepared, wanted: _Wanted) -> Spent | None:
    """How the weights use the scheme's budget."""
    if wanted.scheme == FLOAT:
        return None
    scheme = chosen_scheme(wanted.scheme, wanted.options)
    found: Spent | None = scheme.spent(prepared.model) if hasattr(scheme, "spent") else None
    if found is None:
        return None
    passes = [text for stage in wanted.recipe.stages for text in stage.passes]
    return replace(found, split=any(text.startswith("split-ternary") for text in passes))


CALIBRATION_ROWS = 128
"""Rows that static scales begin with."""


def _calibration(rows: Rows, collator: Collator, recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """Batches of random rows, the same for the same seed."""
    count = min(CALIBRATION_ROWS, len(rows))
    drawn = np.sort(np.random.default_rng(recipe.seed).choice(len(rows), count, replace=False))
    size = min(recipe.batch_size, 16)
    for start in range(0, count, size):
        yield collator([rows[int(row)] for row in drawn[start : start + size]])


def _rounded(plan: Plan) -> Plan:
    """The plan with the exponents that static scales are rounded to."""
    for key, fmt in plan.activations.items():
        if isinstance(fmt, Static) and fmt.exponent is not None:
            exponent = int(static_exponent(np.array(fmt.exponent, np.float32)))
            plan.activations[key] = replace(fmt, exponent=exponent)
    return plan


def _student(prepared: Prepared, recipe: Recipe, config: dict[str, Any]) -> OnnxModule:
    dropout = dropout_of(config)
    if recipe.dropout is not None:
        dropout = {name: recipe.dropout for name in dropout if recipe.dropout}
    return module(
        prepared.graph,
        weights={} if prepared.plan is None else prepared.plan.weights,
        lower=None if prepared.plan is None else prepared.lowered,
        taps=taps_for([stage.losses for stage in recipe.stages]),
        dropout=dropout,
        frozen=recipe.frozen,
        learn=recipe.learn,
    )


def _teacher(
    prepared: Prepared, recipe: Recipe, loaded: ir.Model | None, path: str | Path, task: Task, width: int
) -> tuple[OnnxModule | None, tuple[str, ...], tuple[int, ...], tuple[int, int]]:
    """The teacher, what it calls its logits, its layer of each of the student's, and both hidden sizes."""
    own = encoder(prepared.model)
    if loaded is None:
        return None, (), (), (own.hidden, own.hidden)
    outputs, wide = trained_head(loaded, task)
    if wide != width:
        raise BqcError(f"{path}: the teacher has {output_count(wide)}, the student {width}")
    theirs = encoder(loaded)
    layers = layer_map(own.layers, theirs.layers, recipe.layer_map)
    taps = taps_for([stage.losses for stage in recipe.stages])
    return module(loaded, taps=taps), outputs, layers, (own.hidden, theirs.hidden)

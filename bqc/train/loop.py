"""The training loop: stages of `transformers.Trainer` over one student."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bqc.errors import BqcError
from bqc.evaluate.task import Task
from bqc.train.distillation import Distillation
from bqc.train.examples import Collator, LengthGroups, Rows
from bqc.train.learner import Learner
from bqc.train.module import OnnxModule
from bqc.train.recipe import Recipe, Stage

__all__ = ["Run", "first_process", "run_stages"]

_log = logging.getLogger(__name__)
_FINISHED = "finished.pt"
"""In the folder of a stage: the student's state after it."""
_COMPLETE = "complete"
"""In a checkpoint that was written whole."""


class Run:
    """What all stages share.

    Args:
        student, teacher: the modules; a recipe without distillation has no teacher.
        outputs: what each calls its logits (`bqc.evaluate.predict.Head.outputs`).
        layers: the teacher's layer of each of the student's.
        widths: hidden sizes of student and teacher.
        task: labels and metrics.
        train, dev: rows.
        collator: rows to batches.
        recipe: the settings.
        folder: for checkpoints, one folder a stage; `bqc.train.identity.begin` has made it ready.
        resume: go on from the last checkpoint in ``folder``.
        save_steps: steps between checkpoints; 0 saves after each epoch.
        progress: called with (steps done, steps in all of the stage).
        rewrite: makes the student of a stage with passes from the one before it.
    """

    def __init__(
        self,
        student: OnnxModule,
        teacher: OnnxModule | None,
        *,
        outputs: tuple[tuple[str, ...], tuple[str, ...]],
        layers: tuple[int, ...],
        widths: tuple[int, int],
        task: Task,
        train: Rows,
        dev: Rows,
        collator: Collator,
        recipe: Recipe,
        folder: Path,
        resume: bool = False,
        save_steps: int = 0,
        progress: Callable[[int, int], None] | None = None,
        rewrite: Callable[[OnnxModule, tuple[str, ...]], OnnxModule] | None = None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.outputs, self.layers, self.widths = outputs, layers, widths
        self.task, self.train, self.dev, self.collator = task, train, dev, collator
        self.recipe, self.folder = recipe, folder
        self.resume, self.save_steps, self.progress = resume, save_steps, progress
        self.rewrite = rewrite


def run_stages(run: Run) -> dict[str, float]:
    """Train the student through every stage; return its scores on the dev rows.

    The result of a stage is the last checkpoint, or the best one with ``keep_best``. ``run.student`` is trained in
    place, and becomes another module before a stage with passes.

    Raises:
        BqcError: a stage has passes that cannot be run, or the loss became NaN or infinite; then the message names the
            last good checkpoint.
    """
    transformers.set_seed(run.recipe.seed)
    for number, stage in enumerate(run.recipe.stages):
        folder = run.folder / f"{number}-{stage.name}"
        finished = folder / _FINISHED
        if stage.passes:
            assert run.rewrite is not None, "given by whoever takes recipes"
            run.student = run.rewrite(run.student, stage.passes)
        if run.resume and finished.is_file():
            run.student.load_state_dict(torch.load(finished, weights_only=True))
            continue
        _stage(run, stage, folder)
        if first_process():
            torch.save(run.student.state_dict(), finished)
    try:
        known = _trainer(run, run.recipe.stages[-1], run.folder).evaluate()
    except BqcError as error:
        # Weights that the last step spoiled: no later one could notice.
        raise BqcError(
            f"after training: {error}; lower the learning rate, with another folder for checkpoints"
        ) from None
    return {name: float(known[f"eval_{name}"]) for name in run.task.metrics}


def first_process() -> bool:
    """Whether this is the process that writes: the only one, or the first that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def _stage(run: Run, stage: Stage, folder: Path) -> None:
    trainer = _trainer(run, stage, folder)
    last = _last_checkpoint(folder) if run.resume else None
    try:
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except BqcError as error:
        good = _last_checkpoint(folder)
        kept = f"the last good checkpoint is {good}" if good else "there was no checkpoint yet"
        raise BqcError(
            f"stage {stage.name}, step {trainer.state.global_step + 1}: {error}; {kept}; lower the learning rate, "
            "with another folder for checkpoints"
        ) from None


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a stage; what a killed run left half written is passed over."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def _trainer(run: Run, stage: Stage, folder: Path) -> transformers.Trainer:
    recipe = run.recipe
    distillation = Distillation(stage.losses, run.layers, recipe.temperature, run.widths, recipe.seed)
    learner = Learner(
        run.student,
        run.teacher if stage.losses.teacher else None,
        run.outputs,
        distillation,
        kind=run.task.kind,
        regression=run.task.loss == "mse",
    )
    every = "steps" if run.save_steps else "epoch"
    has_cuda = torch.cuda.is_available()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=stage.learning_rate,
        num_train_epochs=stage.epochs,
        weight_decay=recipe.weight_decay,
        warmup_steps=recipe.warmup,
        lr_scheduler_type="linear",
        eval_strategy=every if recipe.keep_best else "no",
        save_strategy=every,
        eval_steps=run.save_steps or None,
        save_steps=run.save_steps or 500,
        save_total_limit=2,
        load_best_model_at_end=recipe.keep_best,
        metric_for_best_model=f"eval_{run.task.metrics[0]}",
        greater_is_better=True,
        logging_steps=10,
        report_to=[],
        seed=recipe.seed,
        bf16=recipe.precision == "bf16",
        use_cpu=not has_cuda,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ and not has_cuda else None,
        ddp_find_unused_parameters=stage.losses.labels + stage.losses.logits == 0,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        log_level="error",
    )
    callbacks: list[Any] = [
        _Guard(),
        _Marker(),
        _Progress(run.progress),
        _Report(stage.name),
        *_tensorboard(folder),
    ]
    if recipe.patience:
        callbacks.append(transformers.EarlyStoppingCallback(recipe.patience))
    # The trainer prints its log; ours goes through `progress`, to `_log` and to TensorBoard.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    trainer = _Trainer(
        model=learner,
        args=arguments,
        data_collator=run.collator,
        train_dataset=run.train,
        eval_dataset=run.dev,
        compute_metrics=lambda found: run.dev.score(np.asarray(found.predictions)),
        callbacks=callbacks,
    )
    if recipe.group_by_length:
        trainer.sampler = LengthGroups(run.train, recipe.batch_size * recipe.accumulate, recipe.seed)
    # Our losses are means of a batch: several batches a step and several processes are averaged.
    trainer.model_accepts_loss_kwargs = False
    trainer.scales = [run.student.parameter(name) for name in run.student.scales]
    trainer.scale_learning_rate = recipe.scale_learning_rate
    trainer.add_callback(_Settle(trainer.scales, recipe.learn_steps))
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    return trainer


class _Trainer(transformers.Trainer):
    """Takes rows in the order of ``sampler``, if it has one; ``scales`` have a learning rate of their own."""

    sampler: LengthGroups | None = None
    scales: Sequence[torch.nn.Parameter] = ()
    scale_learning_rate: float = 0.0

    def create_optimizer(self, *arguments: Any, **named: Any) -> Any:
        known = self.optimizer is not None
        optimizer = super().create_optimizer(*arguments, **named)
        scales = [one for one in self.scales if one.requires_grad]
        if scales and not known:
            own = {id(one) for one in scales}
            for group in optimizer.param_groups:
                group["params"] = [one for one in group["params"] if id(one) not in own]
            # Exponents do not decay: 0 is no better than another.
            rate = {"lr": self.scale_learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group({**optimizer.defaults, **rate, "params": scales})
        return optimizer

    def _get_train_sampler(self, *arguments: Any) -> Any:
        return self.sampler or super()._get_train_sampler(*arguments)


class _Guard(transformers.TrainerCallback):
    """Stops before an optimizer step that would spoil the weights."""

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        gradients = [(name, one.grad) for name, one in model.named_parameters() if one.grad is not None]
        # One answer for all of them: a device is waited for once a step, not once a parameter.
        finite = torch.stack([torch.isfinite(gradient).all() for _, gradient in gradients])
        if not finite.all():
            name, _ = gradients[int(finite.int().argmin())]
            raise BqcError(f"the gradient of {name.rpartition('student.graph.')[2]} is not finite")


class _Settle(transformers.TrainerCallback):
    """Keeps static scales as they are from a part of the steps on.

    At the boundary of two powers of two, where the gradient of either points to the other, a scale changes with every
    step, however small: the weights need steps in which it does not (TQT, Jain et al., arXiv 1903.08066, freezes too).
    """

    def __init__(self, scales: Sequence[torch.nn.Parameter], steps: float) -> None:
        self._scales, self._steps = scales, steps

    def on_pre_optimizer_step(self, _: Any, state: Any, __: Any, **___: Any) -> None:
        if state.global_step >= self._steps * state.max_steps:
            for one in self._scales:
                one.grad = None  # which the optimizer passes over, its moments included


class _Marker(transformers.TrainerCallback):
    """Marks a checkpoint once all of it is written."""

    def on_save(self, args: Any, state: Any, _: Any, **__: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()


class _Progress(transformers.TrainerCallback):
    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self._progress = progress

    def on_step_end(self, _: Any, state: Any, __: Any, **___: Any) -> None:
        if self._progress is not None:
            self._progress(state.global_step, state.max_steps)


class _Report(transformers.TrainerCallback):
    """Says the loss, a mean over the steps since it said so before, some ten times a stage."""

    def __init__(self, stage: str) -> None:
        self._stage, self._losses = stage, list[float]()

    def on_log(self, _: Any, state: Any, __: Any, logs: dict[str, float] | None = None, **___: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        self._losses.append(float(logs["loss"]))
        last = state.global_step + state.logging_steps > state.max_steps
        if last or len(self._losses) * state.logging_steps * 10 >= state.max_steps:
            mean = sum(self._losses) / len(self._losses)
            _log.info(
                "stage %s, step %d of %d: loss %.4g", self._stage, state.global_step, state.max_steps, mean
            )
            self._losses.clear()


def _tensorboard(folder: Path) -> list[Any]:
    """What logs for TensorBoard, if that is installed."""
    from transformers.integrations import TensorBoardCallback, is_tensorboard_available

    if not is_tensorboard_available():
        return []
    writer = TensorBoardCallback()
    # Unless told, it chooses a folder when training begins: evaluation alone would log into the working directory.
    writer.logging_dir = writer.logging_dir or str(folder / "logs")
    return [writer]

"""How much attention heads and FFN neurons matter on a task's rows, for the pass `slim-width`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from bqc.errors import BqcError
from bqc.evaluate.data import load_examples
from bqc.evaluate.files import read_json
from bqc.evaluate.task import Task
from bqc.evaluate.tasks import find_task
from bqc.evaluate.tokens import TextEncoder, batches
from bqc.ir import import_model
from bqc.ir.anatomy import ANATOMY_KEY
from bqc.passes._blocks import Layer, layers_of
from bqc.passes.slim_width import IMPORTANCE_KEY, write_importance
from bqc.runtime.inputs import EncoderInputs
from bqc.train.examples import MASK, Collator
from bqc.train.heads import trained_head
from bqc.train.learner import decisions
from bqc.train.module import module

__all__ = ["measure_importance"]

Floats = npt.NDArray[np.float64]


def measure_importance(
    model: ir.Model | str | Path,
    task: str | Task,
    data: str | Path | None = None,
    *,
    limit: int | None = 1024,
    seed: int = 0,
    batch_size: int = 32,
    max_length: int = 128,
    folder: str | Path | None = None,
    tokenizer: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ir.Model:
    """Measure how the loss of a float model changes without each head and each neuron, and write it onto the graph.

    The importance of a head or neuron is what its removal changes the loss by, to first order: of a row,
    ``|sum of h * dL/dh|`` over all tokens and dimensions of what it gives, the context of a head or the activation of a
    neuron; then the mean over rows. The loss of a row is the sum over all that is decided in it.

    Source: DynaBERT (Hou et al., arXiv 2004.04037), its network rewiring: the variation of the training loss if a head
    or neuron is removed, by a first-order Taylor expansion, ``|h dL/dh|`` of a head and ``|sum of w dL/dw|`` over a
    neuron's weights. Of these, the weights that lead out of the neuron are taken here: their sum of ``w dL/dw`` is that
    of ``a dL/da`` over tokens, which is just what setting the activation a to zero takes away. The absolute value is of
    a row and not of a batch, so that rows do not cancel and the batch size does not matter.

    Args:
        model: a float ``.onnx`` file, or an annotated canonical model, which is changed in place.
        task, data: as in `bqc.evaluate.evaluate`; the rows are the train split's.
        limit: so many rows are drawn at random; None takes all.
        seed: of the draw.
        batch_size: rows run at once; no part of the result but for rounding.
        max_length: longer texts are cut off.
        folder: where the tokenizer and config.json are; beside the file, if not given.
        tokenizer: where the tokenizer is, if not there.
        progress: called with (rows done, rows in all).

    Returns:
        the annotated model, with `bqc.passes.slim_width.IMPORTANCE_KEY` on Softmax and activation of each layer.

    Raises:
        BqcError: the model, the rows or the tokenizer cannot be read or do not fit, a layer is not whole in the
            canonical form, or a loss is not finite.
    """
    task = find_task(task) if isinstance(task, str) else task
    if isinstance(model, ir.Model):
        if folder is None:
            raise BqcError("a model without a file has no tokenizer beside it: give the folder")
        loaded, place = model, Path(folder)
    else:
        loaded, place = import_model(model)[0], Path(folder) if folder else Path(model).parent
    if ANATOMY_KEY not in loaded.metadata_props:
        loaded, _ = import_model(loaded)
    layers = layers_of(loaded)
    outputs, width = trained_head(loaded, task)
    task, _ = task.fit(read_json(place / "config.json"), width)
    text = TextEncoder(tokenizer or place, max_length)
    examples = load_examples(task, data, "train")
    described = f"all {len(examples)} rows of {task.title} train"
    if limit is not None and limit < len(examples):
        rows = np.sort(np.random.default_rng(seed).choice(len(examples), limit, replace=False))
        examples, described = examples.take(rows), f"{limit} random rows of {task.title} train, seed {seed}"
    features = task.features(examples, text)
    if not len(features):
        raise BqcError(f"there are no rows of {task.title} to measure on")
    collator = Collator(text, EncoderInputs.of_model(loaded))
    measured = _Measured(loaded, layers, task, outputs)
    done = 0
    for index in batches(features.encodings, batch_size):
        measured.add(collator([(features, int(row)) for row in index]))
        done += len(index)
        if progress is not None:
            progress(done, len(features))
    for one in layers:
        write_importance(one.attention.softmax, measured.heads[one.name] / done)
        write_importance(one.ffn.activation, measured.neurons[one.name] / done)
    loaded.metadata_props[IMPORTANCE_KEY] = described
    return loaded


class _Measured:
    """Sums over rows, of every layer by its name: ``heads`` ``[h]`` and ``neurons`` ``[F]``."""

    def __init__(self, model: ir.Model, layers: list[Layer], task: Task, outputs: tuple[str, ...]) -> None:
        self._module = module(model, taps=("*:attention.context", "*:ffn.gelu")).eval()
        self._layers, self._task, self._outputs = layers, task, outputs
        self.heads: dict[str, Floats] = {one.name: np.zeros(one.attention.heads) for one in layers}
        self.neurons: dict[str, Floats] = {one.name: np.zeros(one.ffn.neurons) for one in layers}

    def add(self, batch: dict[str, Tensor]) -> None:
        """Of one batch."""
        results = self._module(**batch)
        loss = self._loss(results, batch)
        if not torch.isfinite(loss):
            raise BqcError(
                f"the loss of a batch is {loss.item()}: the model's outputs hold NaN or infinities"
            )
        taps = self._module.taps
        gradients = torch.autograd.grad(loss, [results[tap] for tap in taps])
        products = {tap: results[tap].detach() * given for tap, given in zip(taps, gradients, strict=True)}
        for one in self._layers:
            context = products[f"{one.name}:attention.context"].unflatten(-1, (one.attention.heads, -1))
            self.heads[one.name] += context.sum((1, 3)).abs().double().sum(0).numpy()
            activation = products[f"{one.name}:ffn.gelu"]
            self.neurons[one.name] += activation.sum(1).abs().double().sum(0).numpy()

    def _loss(self, results: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """The sum of the losses of all rows: the gradient of what a row computes is that of its own loss."""
        found = [results[name] for name in self._outputs]
        logits = torch.stack(found, -1) if len(found) > 1 else found[0]
        mask, labels = batch[MASK], batch["labels"]
        decided = decisions(self._task.kind, logits, mask)
        if self._task.loss == "mse":
            return functional.mse_loss(decided.squeeze(-1), labels.to(decided.dtype), reduction="sum")
        targets = labels[mask.bool()] if self._task.kind == "tagging" else labels.flatten()
        return functional.cross_entropy(decided, targets, reduction="sum")

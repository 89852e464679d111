"""Losses of a model's graph in torch: gradients, and products of its Hessian with vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bqc.evaluate.extras import require
from bqc.evaluate.predict import find_head, ranks_of
from bqc.evaluate.task import IGNORED
from bqc.ir.anatomy import weights_of
from bqc.passes.hoist_gather import hoist
from bqc.runtime.inputs import EncoderInputs
from bqc.sensitivity.spectrum import Product, Vector
from bqc.sensitivity.subject import Subject

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Losses"]

TOKENS = 256
"""Tokens a batch: enough for the matrix products; more only adds padding, and what the caches do not hold."""


class Losses:
    """The task's loss on a subject's sample, as a function of its weights.

    Args:
        subject: has a sample with a task.

    Raises:
        BqcError: ``bqc[train]`` is not installed, or the graph has an operator that torch is not taught.
    """

    def __init__(self, subject: Subject) -> None:
        torch = require("torch", "train")
        from bqc.train import module
        from bqc.train.curvature import with_curvature

        if subject.threads is not None:
            torch.set_num_threads(subject.threads)
        self._pool = ThreadPoolExecutor(torch.get_num_threads())
        sample = subject.sample
        assert sample is not None, "metrics that need labels are given a sample"
        assert sample.task is not None, "metrics that need labels are given a task"
        self._sample, self._task = sample, sample.task
        session = subject.float_session
        self._inputs = EncoderInputs.of(session)
        self._outputs = find_head(ranks_of(session), sample.task.kind).outputs
        self._model = model = subject.model.clone()
        hoist(model, {""})
        # The fused attention has no second derivative.
        self._module = module(model, fused_attention=False).eval().requires_grad_(False)
        with_curvature(self._module.graph)

    def mean_squared_gradients(self, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Mean over features of the squared gradient of each one's loss, float64 in the weight's shape, by name."""
        import torch

        weights = self._differentiable(names)
        squares = [torch.zeros_like(weight) for weight in weights]
        for row in range(self.count):
            for square, gradient in zip(
                squares, torch.autograd.grad(self._loss([row]), weights), strict=True
            ):
                square.addcmul_(gradient, gradient, value=1 / self.count)
        return {name: square.double().numpy() for name, square in zip(names, squares, strict=True)}

    def hessians(self, blocks: Sequence[Sequence[str]], rows: npt.NDArray[np.int64]) -> list[Product]:
        """v -> H v for the mean loss over some features' labels and each block of weights, by name, flattened one
        after another.

        The graph of the gradients is made once, here; a product is one more backward pass through the part of it that
        a block needs. Products hold until the next call of a method. Batches are spread over threads and summed in
        their order: the number of threads changes no bit.
        """
        import torch

        names = list(dict.fromkeys(name for block in blocks for name in block))
        weights = dict(zip(names, self._differentiable(names), strict=True))
        labels = self._labels(rows)

        def gradients(batch: npt.NDArray[np.int64]) -> dict[str, Tensor]:
            loss = self._loss(batch) * (self._labels(batch) / labels)
            found = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            return dict(zip(names, found, strict=True))

        with _one_thread_each():
            found = list(self._pool.map(gradients, self._batches(rows)))
        return [
            self._product(
                [[batch[name] for name in block] for batch in found], [weights[name] for name in block]
            )
            for block in blocks
        ]

    def _product(self, found: list[list[Tensor]], weights: list[torch.nn.Parameter]) -> Product:
        """The product for one block of weights, whose gradients were found batch by batch."""
        import torch

        def product(vector: Vector) -> Vector:
            pieces = torch.from_numpy(vector.astype(np.float32)).split([weight.numel() for weight in weights])
            along = [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]

            def images(gradients: list[Tensor]) -> list[Tensor]:
                return list(torch.autograd.grad(gradients, weights, grad_outputs=along, retain_graph=True))

            with _one_thread_each():
                first, *others = self._pool.map(images, found)
            totals = [one.clone() for one in first]  # what autograd returns may be part of its graph
            for image in others:
                for total, one in zip(totals, image, strict=True):
                    total += one
            result: Vector = torch.cat([total.reshape(-1) for total in totals]).double().numpy()
            return result

        return product

    def size(self, names: Sequence[str]) -> int:
        """Elements of the weights of these names."""
        return sum(self._module.parameter(name).numel() for name in names)

    @property
    def count(self) -> int:
        """Features of the sample."""
        return len(self._sample.features)

    def parameters_of(self, layer: str) -> list[str]:
        """Every parameter labelled with a layer, biases and norms too."""
        known = self._module.initializers()
        names = (value.name or "" for value in weights_of(self._model, layer))
        return [name for name in names if name in known]

    def _differentiable(self, names: Sequence[str]) -> list[torch.nn.Parameter]:
        """Weights of these names; only they get gradients, so that only what follows them is recorded."""
        self._module.requires_grad_(False)
        return [self._module.parameter(name).requires_grad_(True) for name in names]

    def _batches(self, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """The rows in batches of about `TOKENS` tokens and of nearly one length, longest first."""
        lengths = np.asarray([len(self._sample.features.encodings[row].ids) for row in rows])
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            end = start + max(1, TOKENS // int(lengths[order[start]]))
            yield rows[order[start:end]]
            start = end

    def _labels(self, rows: npt.NDArray[np.int64]) -> int:
        """Labels of some features: what the mean loss is the mean over."""
        targets = self._sample.features.targets
        if isinstance(targets, np.ndarray):
            return len(rows)
        return sum(int((targets[row] != IGNORED).sum()) for row in rows)

    def _loss(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Any:
        import torch
        from torch.nn import functional

        batch, given = self._sample.features.pad(rows, self._sample.padder)
        feeds = {name: torch.from_numpy(value) for name, value in self._inputs.feeds(batch).items()}
        results = self._module(**feeds)
        outputs = [results[name] for name in self._outputs]
        targets = torch.from_numpy(np.asarray(given))
        if self._task.loss == "mse":
            return functional.mse_loss(outputs[0][:, 0], targets)
        if self._task.kind == "span":
            scores = torch.stack(outputs, dim=-1) if len(outputs) == 2 else outputs[0]
            hidden = torch.from_numpy(batch.mask == 0)[:, :, None]
            return functional.cross_entropy(scores.masked_fill(hidden, -1e4), targets)
        logits = outputs[0]
        return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Threads of a pool that first run in here compute alone: sharing every operator costs more than it gives."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

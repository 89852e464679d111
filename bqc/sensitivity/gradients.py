"""Losses of a model's graph in torch: gradients, and products of its Hessian with vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bqc.evaluate.extras import require
from bqc.evaluate.predict import find_head, ranks_of
from bqc.evaluate.tokens import batches
from bqc.ir.anatomy import weights_of
from bqc.runtime.inputs import EncoderInputs
from bqc.sensitivity.spectrum import Product, Vector
from bqc.sensitivity.subject import Subject

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Losses"]

ROWS = 32
"""Features a batch: enough for the cores, and the second derivative's graph of each has to fit."""


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

        if subject.threads is not None:
            torch.set_num_threads(subject.threads)
        sample = subject.sample
        assert sample is not None, "metrics that need labels are given a sample"
        assert sample.task is not None, "metrics that need labels are given a task"
        self._model, self._sample, self._task = subject.model, sample, sample.task
        session = subject.float_session
        self._inputs = EncoderInputs.of(session)
        self._outputs = find_head(ranks_of(session), sample.task.kind).outputs
        # The fused attention has no second derivative.
        self._module = module(subject.model, fused_attention=False).eval().requires_grad_(False)

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

    def hessian(self, names: Sequence[str], rows: npt.NDArray[np.int64]) -> Product:
        """v -> H v for the mean loss over some features and the weights of these names, flattened one after another.

        The graph of the gradient is made once, here; a product is one more backward pass through it. Products hold
        until the next call of a method.
        """
        import torch

        weights = self._differentiable(names)
        parts: list[tuple[list[Tensor], float]] = []
        for index in batches([self._sample.features.encodings[row] for row in rows], ROWS):
            loss = self._loss(rows[index])
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            parts.append((list(gradients), len(index) / len(rows)))
        sizes = [weight.numel() for weight in weights]

        def product(vector: Vector) -> Vector:
            pieces = torch.from_numpy(vector.astype(np.float32)).split(sizes)
            along = [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]
            total = np.zeros(sum(sizes))
            for gradients, share in parts:
                images = torch.autograd.grad(gradients, weights, grad_outputs=along, retain_graph=True)
                total += share * torch.cat([image.reshape(-1) for image in images]).double().numpy()
            return total

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

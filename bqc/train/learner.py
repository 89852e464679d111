"""The student, its teacher and the loss of a stage as the one module that the trainer trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bqc.errors import BqcError
from bqc.train.distillation import Distillation
from bqc.train.examples import MASK
from bqc.train.module import OnnxModule

__all__ = ["Learner"]


class Learner(torch.nn.Module):
    """``forward`` gives the loss and the logits of a batch.

    The teacher is no part of the state: it is neither trained nor stored in checkpoints.
    """

    def __init__(
        self, student: OnnxModule, teacher: OnnxModule | None, distillation: Distillation, *, regression: bool
    ) -> None:
        super().__init__()
        self.student, self.distillation, self.regression = student, distillation, regression
        # In a list, so that it is no submodule.
        self._teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]

    def forward(self, labels: Tensor, **batch: Tensor) -> dict[str, Any]:
        """Loss and logits ``[B, C]``.

        Raises:
            BqcError: in training, the loss is NaN or infinite.
        """
        mask = batch.pop(MASK)
        ours = self._results(self.student, batch)
        losses = self.distillation.losses
        loss = ours["logits"].new_zeros(())
        if losses.labels:
            loss = loss + losses.labels * self._supervised(ours["logits"], labels)
        if self.training and losses.teacher:
            (teacher,) = self._teachers
            with torch.no_grad():
                theirs = self._results(teacher.to(labels.device), batch)
            loss = loss + self.distillation(ours, theirs, mask)
        if self.training and not torch.isfinite(loss):
            raise BqcError(f"the loss is {loss.item()}")
        return {"loss": loss, "logits": ours["logits"]}

    def _supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.regression:
            return functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        return functional.cross_entropy(logits, labels)

    @staticmethod
    def _results(module: OnnxModule, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        results = module(**batch)
        return results | {"logits": results[module.output_names[0]]}

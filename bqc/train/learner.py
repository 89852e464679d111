"""The student, its teacher and the loss of a stage as the one module that the trainer trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bqc.errors import BqcError
from bqc.train.distillation import Distillation
from bqc.train.examples import MASK
from bqc.train.module import OnnxModule

__all__ = ["Learner", "decisions"]


def decisions(kind: str, logits: Tensor, mask: Tensor) -> Tensor:
    """Logits ``[N, C]`` of what a head decides: of each text, each token, or both ends among a text's tokens.

    Args:
        kind: the task's.
        logits: ``[B, C]``, ``[B, S, C]`` of tags, or ``[B, S, 2]`` of spans.
        mask: ``[B, S]``, 1 at tokens; no padding is decided upon, and no span begins or ends there.
    """
    if kind == "tagging":
        return logits[mask.bool()]
    if kind == "span":
        kept = logits.masked_fill(~mask.bool().unsqueeze(-1), torch.finfo(logits.dtype).min)
        return kept.transpose(1, 2).flatten(0, 1)
    return logits


class Learner(torch.nn.Module):
    """``forward`` gives the loss and the logits of a batch.

    The teacher is no part of the state: it is neither trained nor stored in checkpoints.

    Args:
        student, teacher: the modules.
        outputs: what they call their logits; two, of start and end, of a span task.
        distillation: the losses.
        kind: the task's (`bqc.evaluate.task.Task.kind`).
        regression: whether the labels are numbers.
    """

    def __init__(
        self,
        student: OnnxModule,
        teacher: OnnxModule | None,
        outputs: tuple[Sequence[str], Sequence[str]],
        distillation: Distillation,
        *,
        kind: str,
        regression: bool,
    ) -> None:
        super().__init__()
        self.student, self.distillation = student, distillation
        self.kind, self.regression = kind, regression
        self._outputs = outputs
        # In a list, so that it is no submodule.
        self._teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]

    def forward(self, labels: Tensor, **batch: Tensor) -> dict[str, Any]:
        """Loss and logits ``[B, C]``, ``[B, S, C]`` of tags, or ``[B, S, 2]`` of spans.

        Raises:
            BqcError: in training, the loss is NaN or infinite.
        """
        mask = batch.pop(MASK)
        mine, others = self._outputs
        ours, logits = self._results(self.student, mine, batch, mask)
        losses = self.distillation.losses
        loss = logits.new_zeros(())
        if losses.labels:
            targets = labels[mask.bool()] if self.kind == "tagging" else labels.flatten()
            loss = loss + losses.labels * self._supervised(ours["logits"], targets)
        if self.training and losses.teacher:
            (teacher,) = self._teachers
            with torch.no_grad():
                theirs, _ = self._results(teacher.to(labels.device), others, batch, mask)
            loss = loss + self.distillation(ours, theirs, mask)
        if self.training and not torch.isfinite(loss):
            raise BqcError(f"the loss is {loss.item()}")
        return {"loss": loss, "logits": logits}

    def _supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.regression:
            return functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        return functional.cross_entropy(logits, labels)

    def _results(
        self, module: OnnxModule, outputs: Sequence[str], batch: dict[str, Tensor], mask: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """All that the module gives, with its decisions as ``logits``; and its logits in the shape of the head."""
        results = module(**batch)
        found = [results[name] for name in outputs]
        logits = torch.stack(found, -1) if len(found) > 1 else found[0]
        return results | {"logits": decisions(self.kind, logits, mask)}, logits

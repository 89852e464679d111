"""Losses against a teacher, on values that both models give by anatomy name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bqc.errors import BqcError
from bqc.train.recipe import Losses

__all__ = ["Distillation", "layer_map", "logits_loss", "taps_for"]

_EMBEDDING = "embedding:embedding.norm"
_TAPS = {"hidden": "ffn.norm", "scores": "attention.scores", "values": "attention.value"}


def taps_for(losses: Sequence[Losses]) -> tuple[str, ...]:
    """The taps that stages' losses need, as patterns."""
    wanted = {name for one in losses for name in _TAPS if getattr(one, name)}
    return tuple(f"*:{_TAPS[name]}" for name in sorted(wanted)) + (
        (_EMBEDDING,) if "hidden" in wanted else ()
    )


def layer_map(student: int, teacher: int, given: Sequence[int] = ()) -> tuple[int, ...]:
    """Teacher's layer of each student's layer: as given, else uniform, the last to the last (TinyBERT, 1909.10351).

    Raises:
        BqcError: the given map has another length or names a layer that the teacher does not have, or there is no
            uniform one.
    """
    if given:
        if len(given) != student or not all(0 <= layer < teacher for layer in given):
            raise BqcError(
                f"layer_map {list(given)} must name a layer in 0..{teacher - 1} for {student} layers"
            )
        return tuple(given)
    if teacher % student:
        raise BqcError(f"{teacher} layers of the teacher do not divide into {student}: give a layer_map")
    step = teacher // student
    return tuple((layer + 1) * step - 1 for layer in range(student))


def logits_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross entropy with the teacher's probabilities [B, C] at a temperature, times its square; of one output the
    squared error."""
    if student.shape[-1] == 1:
        return functional.mse_loss(student, teacher)
    targets = torch.softmax(teacher / temperature, -1)
    return functional.cross_entropy(student / temperature, targets) * temperature**2


class Distillation(torch.nn.Module):
    """The losses of a stage, as a function of both models' results.

    Sums over layers of mean squared errors: ``hidden`` of the outputs of the layers and of the embedding at tokens,
    ``scores`` of attention scores between tokens, ``values`` of V at tokens (BinaryBERT's and TinyBERT's terms; what
    padding has is left out). Where widths differ, hidden states go through a linear map that is trained along
    (TinyBERT, eq. 8), and begins as the seed says, whatever was drawn before.

    Raises:
        BqcError: the models have different numbers of heads and ``scores`` is asked for, or ``values`` of other widths.
    """

    def __init__(
        self,
        losses: Losses,
        layers: Sequence[int],
        temperature: float,
        widths: tuple[int, int],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.losses, self.layers, self.temperature = losses, tuple(layers), temperature
        student, teacher = widths
        self.project = torch.nn.Linear(student, teacher, bias=False) if student != teacher else None
        if self.project is not None:
            drawn = torch.Generator().manual_seed(seed)
            torch.nn.init.kaiming_uniform_(self.project.weight, math.sqrt(5), generator=drawn)
        if losses.values and student != teacher:
            raise BqcError(
                f"values of width {student} and {teacher} cannot be compared: leave out the loss values"
            )

    def forward(self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """The weighted sum; ``mask`` [B, S] is 1 at tokens, ``logits`` are [N, C]."""
        keep = mask.bool()
        total = mask.new_zeros((), dtype=torch.float32)
        if self.losses.logits:
            total = total + self.losses.logits * logits_loss(
                ours["logits"], theirs["logits"], self.temperature
            )
        for name, role in _TAPS.items():
            weight = getattr(self.losses, name)
            if not weight:
                continue
            pairs = [(f"{i}:{role}", f"{layer}:{role}") for i, layer in enumerate(self.layers)]
            if name == "hidden":
                pairs.append((_EMBEDDING, _EMBEDDING))
            for mine, other in pairs:
                total = total + weight * self._distance(name, ours[mine], theirs[other], keep)
        return total

    def _distance(self, name: str, ours: Tensor, theirs: Tensor, keep: Tensor) -> Tensor:
        if name == "scores":
            if ours.shape[1] != theirs.shape[1]:
                raise BqcError(f"scores of {ours.shape[1]} and {theirs.shape[1]} heads cannot be compared")
            both = (keep[:, None, :, None] & keep[:, None, None, :]).expand_as(ours)
        else:
            if name == "values" and ours.shape[-1] != theirs.shape[-1]:
                raise BqcError(
                    f"values of width {ours.shape[-1]} and {theirs.shape[-1]} cannot be compared: "
                    "leave out the loss values"
                )
            both = keep.unsqueeze(-1).expand_as(theirs)
            if self.project is not None:
                ours = self.project(ours)
        difference = torch.where(both, ours - theirs, 0.0)
        return difference.square().sum() / both.sum()

"""Rows of a task as the batches that a module takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from bqc.evaluate.task import Examples, Features, Task
from bqc.evaluate.tokens import TextEncoder
from bqc.runtime.inputs import EncoderInputs

__all__ = ["MASK", "Collator", "LengthGroups", "Rows"]

MASK = "bqc_mask"
"""The key under which a batch carries its mask, whatever the model's own inputs are."""

Row = tuple[Features, int]


class Rows(torch.utils.data.Dataset[Row]):
    """Features of a task's examples, unpadded, and how outputs for them are scored."""

    def __init__(self, task: Task, examples: Examples, encoder: TextEncoder) -> None:
        self._task, self._examples = task, examples
        self._features = task.features(examples, encoder)

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, row: int) -> Row:
        return self._features, row

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(encoding.ids) for encoding in self._features.encodings]

    def score(self, outputs: npt.NDArray[np.float32]) -> dict[str, float]:
        """Metrics of a module's outputs: ``[rows, classes]``, or ``[rows, tokens, ...]`` with padding.

        Raises:
            BqcError: the task's own metric function fails.
        """
        encodings = self._features.encodings
        by_token = outputs.ndim > 2
        cut = [row[: len(e.ids)] if by_token else row for row, e in zip(outputs, encodings, strict=True)]
        found = self._task.predictions(self._examples, self._features, cut)
        return self._task.score(self._examples, found)


class LengthGroups(LengthGroupedSampler):
    """Rows in random order, those of similar length together, which leaves little padding in a batch.

    The order follows from the seed and the epoch alone, so that a resumed run sees the batches it would have seen.

    Args:
        rows: what to sample.
        batch_size: rows of an optimizer step.
        seed: of the order.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=rows.lengths)
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The trainer calls it before every epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return super().__iter__()


class Collator:
    """Rows to the tensors of a batch, padded to its longest: the model's inputs, ``labels``, and the mask."""

    def __init__(self, encoder: TextEncoder, inputs: EncoderInputs) -> None:
        self._encoder, self._inputs = encoder, inputs

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        features = rows[0][0]
        batch, targets = features.pad([row for _, row in rows], self._encoder, self._inputs.sequence)
        feeds: dict[str, Any] = {
            name: torch.from_numpy(value) for name, value in self._inputs.feeds(batch).items()
        }
        return feeds | {"labels": torch.from_numpy(targets), MASK: torch.from_numpy(batch.mask)}

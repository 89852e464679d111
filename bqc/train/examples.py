"""Rows of a task as the batches that a module takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bqc.evaluate.task import Examples
from bqc.evaluate.tokens import Encoding, TextEncoder
from bqc.runtime.inputs import EncoderInputs

__all__ = ["MASK", "Collator", "Rows"]

MASK = "bqc_mask"
"""The key under which a batch carries its mask, whatever the model's own inputs are."""


class Rows(torch.utils.data.Dataset[tuple[Encoding, float]]):
    """Tokenised rows, unpadded, with their labels."""

    def __init__(self, examples: Examples, encoder: TextEncoder) -> None:
        self._encodings = encoder.encode(examples.texts)
        self._labels = examples.labels

    def __len__(self) -> int:
        return len(self._encodings)

    def __getitem__(self, row: int) -> tuple[Encoding, Any]:
        return self._encodings[row], self._labels[row]


class Collator:
    """Rows to the tensors of a batch, padded to its longest: the model's inputs, ``labels``, and the mask."""

    def __init__(self, encoder: TextEncoder, inputs: EncoderInputs) -> None:
        self._encoder, self._inputs = encoder, inputs

    def __call__(self, rows: Sequence[tuple[Encoding, Any]]) -> dict[str, torch.Tensor]:
        batch = self._encoder.pad([encoding for encoding, _ in rows], self._inputs.sequence)
        feeds = {name: torch.from_numpy(value) for name, value in self._inputs.feeds(batch).items()}
        labels = torch.tensor([label.item() for _, label in rows])
        return feeds | {"labels": labels, MASK: torch.from_numpy(batch.mask)}

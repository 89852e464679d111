"""What engines are run on: batches of random token ids of a fixed, a random or a real task's lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bqc.runtime.feeds import random_batches
from bqc.runtime.inputs import Batch

__all__ = ["Vocabulary", "Workload", "full", "ragged", "realistic"]

_CYCLE = 8
"""Batches of a workload whose lengths vary."""


@dataclass(frozen=True)
class Vocabulary:
    """Token ids are drawn below ``ids``, token types below ``types``."""

    ids: int
    types: int = 1


@dataclass(frozen=True)
class Workload:
    """A named cycle of batches."""

    name: str
    batches: list[Batch]

    @property
    def tokens(self) -> float:
        """Tokens of a batch that are no padding, on average."""
        return float(np.mean([batch.mask.sum() for batch in self.batches]))

    @property
    def padded_tokens(self) -> float:
        """Tokens of a batch, padding included, on average."""
        return float(np.mean([batch.mask.size for batch in self.batches]))


def full(shape: tuple[int, int], vocabulary: Vocabulary, seed: int) -> Workload:
    """One batch of ``shape`` (batch, tokens) without padding."""
    batch = _batch(np.full(shape[0], shape[1]), vocabulary, np.random.default_rng(seed))
    return Workload(_name(shape), [batch])


def ragged(shape: tuple[int, int], vocabulary: Vocabulary, seed: int) -> Workload:
    """Eight batches whose rows have 1 to ``shape[1]`` tokens, padded to it right and left in turn."""
    rows = _CYCLE * shape[0]
    batches = random_batches(vocabulary.ids, vocabulary.types, rows, *shape, seed)
    return Workload(f"{_name(shape)} random", list(batches))


def realistic(
    shape: tuple[int, int], vocabulary: Vocabulary, name: str, lengths: Sequence[int], seed: int
) -> Workload:
    """Eight batches whose rows have lengths drawn from ``lengths``, padded to the longest of the batch.

    Args:
        shape: rows a batch, and the tokens that longer rows are cut to.
        vocabulary: of the random ids.
        name: of the lengths.
        lengths: tokens of rows of a task, one a row.
        seed: of numpy's default generator.
    """
    random = np.random.default_rng(seed)
    drawn = np.minimum(random.choice(np.asarray(lengths), size=(_CYCLE, shape[0])), shape[1])
    return Workload(f"{_name(shape)} {name}", [_batch(row, vocabulary, random) for row in drawn])


def _batch(lengths: np.ndarray, vocabulary: Vocabulary, random: np.random.Generator) -> Batch:
    width = int(lengths.max())
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    # Padding has id 0, as in random_batches.
    ids = random.integers(1, vocabulary.ids, size=mask.shape, dtype=np.int64)
    types = random.integers(0, vocabulary.types, size=mask.shape, dtype=np.int64)
    return Batch(ids * mask, mask, types * mask)


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"

"""Running an encoder over texts: logits of a classifier, or one vector a text of an embedding model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from bqc.errors import BqcError
from bqc.evaluate.tokens import TextEncoder, batches
from bqc.runtime.inputs import EncoderInputs

__all__ = ["Head", "Predictor", "find_head"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """The output to read.

    Attributes:
        output: its name in the graph.
        kind: ``logits`` ``[batch, classes]``, ``embedding`` ``[batch, width]``, or ``hidden``
            ``[batch, sequence, width]``, of which the mean over tokens is the embedding.
    """

    output: str
    kind: str

    @property
    def embeds(self) -> bool:
        """Whether the model gives a vector a text instead of scores."""
        return self.kind != "logits"


def find_head(session: onnxruntime.InferenceSession) -> Head:
    """Which output of the model to evaluate: by its usual name, else by its rank.

    Raises:
        BqcError: no output is one that can be scored here.
    """
    ranks = {value.name: len(value.shape) for value in session.get_outputs()}
    for name, kind, rank in (
        ("logits", "logits", 2),
        ("sentence_embedding", "embedding", 2),
        ("last_hidden_state", "hidden", 3),
        ("token_embeddings", "hidden", 3),
    ):
        if ranks.get(name) == rank:
            return Head(name, kind)
    if len(ranks) == 1:
        name, rank = next(iter(ranks.items()))
        if rank in (2, 3):
            return Head(name, "logits" if rank == 2 else "hidden")
    shown = ", ".join(f"{name} of rank {rank}" for name, rank in ranks.items())
    raise BqcError(
        f"no output to score: looked for logits, sentence_embedding or last_hidden_state, found {shown}"
    )


class Predictor:
    """A session and a tokenizer, as a function from texts to arrays.

    Attributes:
        head: the output that is read.
        seconds: time spent inside ``session.run`` so far; tokenisation is not in it.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        encoder: TextEncoder,
        batch_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.head = find_head(session)
        self.seconds = 0.0
        self._session = session
        self._encoder = encoder
        self._inputs = EncoderInputs.of(session)
        self._batch_size = self._inputs.batch or batch_size
        self._progress = progress

    def __call__(self, texts: Sequence[tuple[str, ...]]) -> Floats:
        """Float32 ``[texts, width]`` in the order of ``texts``: logits, or embeddings."""
        encodings = self._encoder.encode(texts)
        rows: list[Floats | None] = [None] * len(texts)
        done = 0
        for index in batches(encodings, self._batch_size):
            # A graph with a fixed batch size gets its last batch filled up with repeats.
            fill = np.resize(index, self._batch_size) if self._inputs.batch else index
            batch = self._encoder.pad([encodings[row] for row in fill], self._inputs.sequence)
            feeds = self._inputs.feeds(batch)
            start = time.perf_counter()
            (output,) = self._session.run([self.head.output], feeds)
            self.seconds += time.perf_counter() - start
            output = np.asarray(output, dtype=np.float32)
            if self.head.kind == "hidden":
                output = _mean_pool(output, batch.mask)
            for row, values in zip(index, output, strict=False):
                rows[row] = values
            done += len(index)
            if self._progress:
                self._progress(done, len(texts))
        return np.stack([row for row in rows if row is not None])


def _mean_pool(hidden: Floats, mask: npt.NDArray[np.int64]) -> Floats:
    weights = mask[:, :, None].astype(np.float32)
    return np.asarray((hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1), dtype=np.float32)

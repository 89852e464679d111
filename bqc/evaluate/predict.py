"""Running an encoder over tokenised texts: the outputs of a head, or one vector a text of an embedding model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from bqc.errors import BqcError
from bqc.evaluate.tokens import Encoding, Padder, batches
from bqc.runtime.inputs import Batch, EncoderInputs

__all__ = ["Head", "Predictor", "find_head", "ranks_of"]

Floats = npt.NDArray[np.float32]

_HIDDEN = ("last_hidden_state", "token_embeddings")
_WORDS = {
    "sentence": "one output a text",
    "tagging": "one output a token",
    "span": "a start and an end score a token",
    "embedding": "one vector a text",
}


@dataclass(frozen=True)
class Head:
    """The outputs to read.

    Attributes:
        outputs: their names in the graph.
        kind: ``logits`` ``[batch, classes]``, ``tags`` ``[batch, sequence, tags]``, ``spans`` (two outputs
            ``[batch, sequence]`` or one ``[batch, sequence, 2]``), ``embedding`` ``[batch, width]``, or
            ``hidden`` ``[batch, sequence, width]``, of which the mean over tokens is the embedding.
    """

    outputs: tuple[str, ...]
    kind: str

    @property
    def embeds(self) -> bool:
        """Whether the model gives a vector a text instead of scores."""
        return self.kind in ("embedding", "hidden")


def ranks_of(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """Rank of each output, by name."""
    return {value.name: len(value.shape) for value in session.get_outputs()}


def find_head(ranks: Mapping[str, int], kind: str | None = None) -> Head:
    """Which outputs of the model to evaluate: by their usual names, else by their rank.

    Args:
        ranks: of the model's outputs, by name.
        kind: what the task needs: ``sentence`` (an embedding will do), ``tagging`` or ``span``; None takes any.

    Raises:
        BqcError: the head is another task's, or no output is one that can be scored here.
    """
    has = _told_apart(ranks)
    if has is None:
        shown = ", ".join(f"{name} of rank {rank}" for name, rank in ranks.items())
        raise BqcError(
            f"no output to score: looked for logits, start_logits and end_logits, sentence_embedding or "
            f"last_hidden_state, found {shown}"
        )
    if kind is None:
        return has
    fits = {"sentence": ("logits", "embedding", "hidden"), "tagging": ("tags",), "span": ("spans",)}[kind]
    if kind != "sentence" and (
        has.kind == "tags" or (has.kind == "hidden" and has.outputs[0] not in _HIDDEN)
    ):
        # One output of rank 3 says no more: its width will tell.
        has = Head(has.outputs, fits[0])
    if has.kind not in fits:
        found = {"logits": "sentence", "tags": "tagging", "spans": "span"}.get(has.kind, "embedding")
        raise BqcError(
            f"the model gives {_WORDS[found]} ({', '.join(has.outputs)}) and the task needs {_WORDS[kind]}"
        )
    return has


class Predictor:
    """A session, as a function from tokenised texts to arrays.

    Args:
        session: the model.
        padder: makes the batches.
        batch_size: rows a run; a graph with a fixed batch size has its own.
        progress: called with (rows done, rows in all).
        kind: what the task needs (see `find_head`).

    Attributes:
        head: the outputs that are read.
        seconds: time spent inside ``session.run`` so far.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        padder: Padder,
        batch_size: int,
        progress: Callable[[int, int], None] | None = None,
        kind: str | None = None,
    ) -> None:
        self.head = find_head(ranks_of(session), kind)
        self.seconds = 0.0
        self._session = session
        self._padder = padder
        self._inputs = EncoderInputs.of(session)
        self._batch_size = self._inputs.batch or batch_size
        self._progress = progress

    @property
    def width(self) -> int:
        """Outputs a text, or a token: asked of the graph, else of a run on one token."""
        if len(self.head.outputs) > 1:
            return len(self.head.outputs)
        (name,) = self.head.outputs
        width = next(value for value in self._session.get_outputs() if value.name == name).shape[-1]
        if isinstance(width, int):
            return width
        batch = self._padder.pad([Encoding([1], [0])] * self._batch_size, self._inputs.sequence)
        return int(self._session.run([name], self._inputs.feeds(batch))[0].shape[-1])

    def batches(
        self, encodings: Sequence[Encoding]
    ) -> Iterator[tuple[npt.NDArray[np.int64], Batch, dict[str, npt.NDArray[np.generic]]]]:
        """(indices, batch, the session's feeds) of every run that a call makes, longest texts first."""
        for index in batches(encodings, self._batch_size):
            # A graph with a fixed batch size gets its last batch filled up with repeats.
            fill = np.resize(index, self._batch_size) if self._inputs.batch else index
            batch = self._padder.pad([encodings[row] for row in fill], self._inputs.sequence)
            yield index, batch, self._inputs.feeds(batch)

    def __call__(self, encodings: Sequence[Encoding]) -> list[Floats]:
        """A float32 array each, in the order given and without padding.

        ``[classes]``, ``[tokens, tags]``, ``[tokens, 2]`` start and end scores, or ``[width]`` of an embedding.
        """
        rows: list[Floats | None] = [None] * len(encodings)
        done = 0
        for index, batch, feeds in self.batches(encodings):
            start = time.perf_counter()
            found = self._session.run(list(self.head.outputs), feeds)
            self.seconds += time.perf_counter() - start
            outputs = [np.asarray(output, dtype=np.float32) for output in found]
            values = np.stack(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
            if self.head.kind == "hidden":
                values = _mean_pool(values, batch.mask)
            for row, value in zip(index, values, strict=False):
                by_token = self.head.kind in ("tags", "spans")
                rows[row] = value[: len(encodings[row].ids)] if by_token else value
            done += len(index)
            if self._progress:
                self._progress(done, len(encodings))
        return [row for row in rows if row is not None]


def _told_apart(ranks: Mapping[str, int]) -> Head | None:
    if ranks.get("start_logits") == ranks.get("end_logits") == 2:
        return Head(("start_logits", "end_logits"), "spans")
    for name, kind, rank in (
        ("logits", "logits", 2),
        ("logits", "tags", 3),
        ("sentence_embedding", "embedding", 2),
        *((name, "hidden", 3) for name in _HIDDEN),
    ):
        if ranks.get(name) == rank:
            return Head((name,), kind)
    if len(ranks) == 1:
        name, rank = next(iter(ranks.items()))
        if rank in (2, 3):
            return Head((name,), "logits" if rank == 2 else "hidden")
    return None


def _mean_pool(hidden: Floats, mask: npt.NDArray[np.int64]) -> Floats:
    weights = mask[:, :, None].astype(np.float32)
    return np.asarray((hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1), dtype=np.float32)

"""Inputs to run models on when there is no data: a file, a few sentences, or random ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from bqc.errors import BqcError
from bqc.ir.inputs import MASK, TOKEN_IDS, InputSpec
from bqc.runtime.inputs import DTYPES, Batch, EncoderInputs
from bqc.runtime.sentences import SENTENCES
from bqc.runtime.specs import specs_of

__all__ = ["Feeds", "Inputs", "random_batches", "read_feeds"]

Feeds = dict[str, npt.NDArray[np.generic]]
"""Input or output name -> array."""


@dataclass(frozen=True)
class Inputs:
    """What two models are run on.

    Attributes:
        description: in words.
        fixed_sequence: whether the graph fixes the sequence length.
        runs: feeds of the first model, feeds of the second, and the mask, bool ``[batch, sequence]``, of each
            run.
    """

    description: str
    fixed_sequence: bool
    runs: Sequence[tuple[Feeds, Feeds, npt.NDArray[np.bool_]]]

    @classmethod
    def choose(
        cls,
        sessions: tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession],
        paths: tuple[str | Path, str | Path],
        file: str | Path | None,
        samples: int | None,
        shape: tuple[int, int] | None,
        seed: int,
    ) -> Inputs:
        """The file's arrays; else built-in sentences, where a tokenizer lies beside a model; else random ids.

        Asking for ``samples`` or a ``shape`` asks for random ids. The second session is the float original.

        Raises:
            BqcError: the file does not fit, or the size of the vocabulary cannot be told.
        """
        specs = specs_of(sessions, paths[1])
        try:
            ours, theirs = (EncoderInputs.of(session, specs) for session in sessions)
        except BqcError as error:
            if file is None:
                raise BqcError(f"{error}; give inputs with --inputs FILE.npz") from error
            return cls(str(file), False, _any_inputs(file, sessions))
        fixed = theirs.sequence is not None
        if file is not None:
            parts = (_by_batch(file, one, theirs.batch) for one in (ours, theirs))
            runs = [(x, y, ours.mask_of(x)) for x, y in zip(*parts, strict=True)]
            if not any(mask.any() for _, _, mask in runs):
                raise BqcError(f"{file}: the mask hides every token, so that there is nothing to compare")
            return cls(str(file), fixed, runs)
        folders = [Path(path).parent for path in paths]
        folder = next((place for place in folders if (place / "tokenizer.json").is_file()), None)
        if folder is not None and samples is None and shape is None and theirs.batch is None:
            description, batches = _sentence_batches(folder, theirs.sequence)
        else:
            description, batches = _random_batches(theirs, paths[1], samples, shape, seed)
        runs = [(ours.feeds(batch), theirs.feeds(batch), batch.mask != 0) for batch in batches]
        return cls(description, fixed, runs)


def _any_inputs(
    file: str | Path, sessions: tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]
) -> list[tuple[Feeds, Feeds, npt.NDArray[np.bool_]]]:
    """What a file has for inputs that are not those of an encoder, in one run; no mask is known."""
    feeds = []
    for session in sessions:
        dtypes = {value.name: DTYPES.get(value.type) for value in session.get_inputs()}
        arrays = _arrays(file, dtypes)
        feeds.append({name: arrays[name].astype(dtype) for name, dtype in dtypes.items()})
    rows = {len(array) if array.ndim else 0 for array in feeds[0].values()}
    if len(rows) != 1 or not max(rows):
        raise BqcError(f"{file}: inputs must have one number of rows, found {sorted(rows)}")
    return [(feeds[0], feeds[1], np.ones((max(rows), 1), np.bool_))]


def random_batches(
    vocabulary: int, types: int, samples: int, batch: int, sequence: int, seed: int
) -> Iterator[Batch]:
    """Random token ids with ragged masks: rows of 1 to ``sequence`` tokens, padded right and left in turn.

    Args:
        vocabulary: ids are drawn from ``range(1, vocabulary)``; padding has id 0.
        types: token types are drawn from ``range(types)``.
        samples: rows in all.
        batch: rows a batch; the last may be smaller.
        sequence: tokens a row, padding included; the first row of a batch has no padding.
        seed: of numpy's default generator.
    """
    random = np.random.default_rng(seed)
    for start in range(0, samples, batch):
        shape = (min(batch, samples - start), sequence)
        lengths = random.integers(1, sequence + 1, size=(shape[0], 1))
        lengths[0] = sequence
        at = np.arange(sequence)
        left = np.arange(shape[0])[:, None] % 2 == 1
        mask = np.where(left, at >= sequence - lengths, at < lengths).astype(np.int64)
        ids = random.integers(1, vocabulary, size=shape, dtype=np.int64)
        kinds = random.integers(0, types, size=shape, dtype=np.int64)
        yield Batch(ids * mask, mask, kinds * mask)


def read_feeds(path: str | Path, inputs: EncoderInputs) -> Feeds:
    """Feeds from a ``.npz`` with one ``[batch, sequence]`` array an input, cast to the model's dtypes.

    A mask of more axes may be given with them, ``[batch, 1, 1, sequence]``, or without. Where a model reads two
    texts, their sequences may differ.

    Raises:
        BqcError: the file cannot be read, an input is missing from it, shapes differ, or an array holds what the input
            cannot take: ids that are not in the table, more tokens than there are positions, fractions, text.
    """
    arrays = _arrays(path, inputs.dtypes)
    shapes = {name: _plain(arrays[name].shape, inputs.ranks[name]) for name in inputs.dtypes}
    texts = sum(one.role == TOKEN_IDS for one in inputs.specs.values())
    distinct = {shape[: 1 if texts > 1 else 2] for shape in shapes.values()}
    if len(distinct) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        found = ", ".join(f"{name} {list(arrays[name].shape)}" for name in shapes)
        raise BqcError(f"{path}: inputs must share one shape [batch, sequence], found {found}")
    for name, (_, sequence) in shapes.items():
        problem = _unfit(arrays[name], inputs.specs[name], inputs.dtypes[name])
        if inputs.longest and sequence > inputs.longest:
            problem = f"has sequences of {sequence} tokens, and the model has positions for {inputs.longest}"
        if problem:
            raise BqcError(f"{path}: {name} {problem}")
    return {
        name: arrays[name].astype(dtype).reshape(batch, *[1] * (inputs.ranks[name] - 2), sequence)
        for (name, dtype), (batch, sequence) in zip(inputs.dtypes.items(), shapes.values(), strict=True)
    }


def _arrays(path: str | Path, names: Iterable[str]) -> Feeds:
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # OSError, ValueError, BadZipFile, AttributeError for a lone .npy
        raise BqcError(f"{path}: not a readable .npz file") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise BqcError(f"{path} lacks {', '.join(missing)} (it has {', '.join(arrays) or 'nothing'})")
    return arrays


def _unfit(array: npt.NDArray[np.generic], spec: InputSpec, dtype: npt.DTypeLike) -> str | None:
    """Why an input cannot take an array, in words."""
    if array.dtype.kind not in "biuf":
        return f"holds {array.dtype}, not numbers"
    numbers = array.astype(np.float64)
    if np.dtype(dtype).kind != "f" and not (numbers == np.floor(numbers)).all():
        return "holds fractions or NaN, and the model takes whole numbers"
    if not numbers.size:
        return "has no token"
    low, high = numbers.min(), numbers.max()
    if spec.role != MASK and (low < 0 or (spec.rows and high >= spec.rows)):
        return f"has ids from {low:.0f} to {high:.0f}, and the table has {spec.rows} rows"
    return None


def _plain(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Without the axes of one between the first and the last, which only masks of that many axes have."""
    return (shape[0], shape[-1]) if len(shape) == rank > 1 and set(shape[1:-1]) <= {1} else shape


def _by_batch(path: str | Path, inputs: EncoderInputs, batch: int | None) -> list[Feeds]:
    """The file's rows in one run, or in several of the size that the model is fixed to."""
    feeds = read_feeds(path, inputs)
    rows = len(next(iter(feeds.values())))
    size = batch or max(rows, 1)
    if not rows or rows % size:
        raise BqcError(f"{path} has {rows} rows; the model takes {size} at a time: give a multiple of them")
    return [
        {name: array[start : start + size] for name, array in feeds.items()} for start in range(0, rows, size)
    ]


def _sentence_batches(folder: Path, sequence: int | None) -> tuple[str, list[Batch]]:
    # Only this way of making inputs needs a tokenizer.
    from bqc.evaluate.tokens import TextEncoder

    encoder = TextEncoder(folder, sequence)
    encodings = encoder.encode(SENTENCES)
    batches = [encoder.pad(encodings, sequence, left=left) for left in (False, True)]
    return f"{len(SENTENCES)} built-in texts, padded right and left", batches


def _random_batches(
    inputs: EncoderInputs, path: str | Path, samples: int | None, shape: tuple[int, int] | None, seed: int
) -> tuple[str, list[Batch]]:
    if not inputs.vocabulary:
        raise BqcError(f"{path}: cannot tell the size of the vocabulary; give inputs with --inputs FILE.npz")
    batch, sequence = shape or (8, min(64, inputs.longest or 64))
    batch, sequence = inputs.batch or batch, inputs.sequence or sequence
    count = samples or 32
    if inputs.batch:
        count = -(-count // batch) * batch
    description = f"{count} random rows of up to {sequence} tokens in batches of {batch}, seed {seed}"
    drawn = random_batches(inputs.vocabulary, inputs.types, count, batch, sequence, seed)
    return description, list(drawn)

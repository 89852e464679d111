"""From texts to token ids, by the ``tokenizer.json`` beside the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.extras import require
from bqc.evaluate.files import read_json
from bqc.runtime.inputs import Batch

__all__ = ["Encoding", "TextEncoder", "batches"]

DEFAULT_MAX_LENGTH = 128


@dataclass(frozen=True)
class Encoding:
    """Token ids and token types of one text or pair, of equal length."""

    ids: list[int]
    types: list[int]


class TextEncoder:
    """A tokenizer with truncation.

    Args:
        folder: holds ``tokenizer.json``, and perhaps ``tokenizer_config.json`` and ``config.json``.
        max_length: tokens to keep, special ones included; None takes 128 or what the model has positions for.

    Attributes:
        max_length: tokens a text is truncated to, the longer text of a pair first.
        pad_id: the id of the padding token.

    Raises:
        BqcError: there is no usable ``tokenizer.json``, or ``tokenizers`` is not installed.
    """

    def __init__(self, folder: str | Path, max_length: int | None = None) -> None:
        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            raise BqcError(f"no tokenizer.json in {folder}: give its folder with --tokenizer DIR")
        tokenizers = require("tokenizers", "eval")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the Rust binding raises a bare Exception
            raise BqcError(f"{file}: not a tokenizer ({error})") from error
        config, settings = (
            read_json(file.with_name("config.json")),
            read_json(file.with_name("tokenizer_config.json")),
        )
        positions = int(config.get("max_position_embeddings", DEFAULT_MAX_LENGTH))
        self.max_length = max_length or min(DEFAULT_MAX_LENGTH, positions)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length, strategy="longest_first")
        pad = settings.get("pad_token", "[PAD]")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        found = self._tokenizer.token_to_id(pad) if pad else None
        self.pad_id = int(config.get("pad_token_id") or 0) if found is None else int(found)

    def encode(self, texts: Sequence[tuple[str, ...]]) -> list[Encoding]:
        """Token ids of texts (1-tuples) and pairs (2-tuples), in the given order, unpadded."""
        plain = [text[0] if len(text) == 1 else text for text in texts]
        return [Encoding(list(item.ids), list(item.type_ids)) for item in self._tokenizer.encode_batch(plain)]

    def pad(self, encodings: Sequence[Encoding], length: int | None = None, *, left: bool = False) -> Batch:
        """Encodings as one batch, padded to ``length`` or to the longest, on the right or on the left."""
        width = length or max(len(item.ids) for item in encodings)
        ids = np.full((len(encodings), width), self.pad_id, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, item in enumerate(encodings):
            at = slice(width - len(item.ids), width) if left else slice(0, len(item.ids))
            ids[row, at], types[row, at], mask[row, at] = item.ids, item.types, 1
        return Batch(ids, mask, types)


def batches(encodings: Sequence[Encoding], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row indices in batches of ``size``, longest first: little is padded and the peak comes at once."""
    lengths = np.asarray([len(item.ids) for item in encodings], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]

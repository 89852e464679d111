"""From texts to token ids, by the ``tokenizer.json`` beside the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqc.errors import BqcError
from bqc.evaluate.extras import require
from bqc.evaluate.files import read_json
from bqc.runtime.inputs import Batch

__all__ = ["Encoding", "Padder", "TextEncoder", "batches"]

DEFAULT_MAX_LENGTH = 128
LONGEST_QUESTION = 64
"""Tokens of a question that are kept, as BERT's run_squad.py does."""
SHORTEST_WINDOW = 16
ROBERTA_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


@dataclass(frozen=True)
class Encoding:
    """Token ids and token types of one text or pair, of equal length."""

    ids: list[int]
    types: list[int]


class Padder:
    """Makes batches of token ids.

    Attributes:
        pad_id: the id of the padding token.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def pad(self, encodings: Sequence[Encoding], length: int | None = None, *, left: bool = False) -> Batch:
        """Encodings as one batch, padded to ``length`` or to the longest, on the right or on the left."""
        width = length or max(len(item.ids) for item in encodings)
        ids = np.full((len(encodings), width), self.pad_id, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, item in enumerate(encodings):
            at = slice(width - len(item.ids), width) if left else slice(0, len(item.ids))
            ids[row, at], types[row, at], mask[row, at] = item.ids, item.types, 1
        return Batch(ids, mask, types)


class TextEncoder(Padder):
    """A tokenizer with truncation.

    Args:
        folder: holds ``tokenizer.json``, and perhaps ``tokenizer_config.json`` and ``config.json``.
        max_length: tokens to keep, special ones included; None takes ``default`` or what the model has positions
            for.
        default: for a ``max_length`` of None.

    Attributes:
        max_length: tokens a text is truncated to, the longer text of a pair first.

    Raises:
        BqcError: there is no usable ``tokenizer.json``, or ``tokenizers`` is not installed.
    """

    def __init__(
        self, folder: str | Path, max_length: int | None = None, default: int = DEFAULT_MAX_LENGTH
    ) -> None:
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
        self.max_length = max_length or min(default, _positions(config, default))
        self._tokenizer.no_padding()
        pad = settings.get("pad_token", "[PAD]")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        found = self._tokenizer.token_to_id(pad) if pad else None
        super().__init__(int(config.get("pad_token_id") or 0) if found is None else int(found))

    def encode(self, texts: Sequence[tuple[str, ...]]) -> list[Encoding]:
        """Token ids of texts (1-tuples) and pairs (2-tuples), in the given order, unpadded."""
        self._tokenizer.enable_truncation(self.max_length, strategy="longest_first")
        plain = [text[0] if len(text) == 1 else text for text in texts]
        return [_encoding(item) for item in self._tokenizer.encode_batch(plain)]

    def encode_words(
        self, sentences: Sequence[tuple[str, ...]]
    ) -> tuple[list[Encoding], list[npt.NDArray[np.int64]]]:
        """Token ids of sentences that are words already, and int64 ``[words]`` the first token of each word.

        That token is -1 for a word that was cut off or that the tokenizer makes nothing of.
        """
        self._tokenizer.enable_truncation(self.max_length, strategy="longest_first")
        with_space = _word_tokenizer(self._tokenizer)
        items = with_space.encode_batch([list(words) for words in sentences], is_pretokenized=True)
        firsts = []
        for words, item in zip(sentences, items, strict=True):
            first = np.full(len(words), -1, dtype=np.int64)
            # Backwards, so that the first token of a word is what stays.
            for token in reversed(range(len(item.ids))):
                if item.word_ids[token] is not None:
                    first[item.word_ids[token]] = token
            firsts.append(first)
        return [_encoding(item) for item in items], firsts

    def encode_windows(
        self, pairs: Sequence[tuple[str, ...]], stride: int
    ) -> tuple[list[Encoding], npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
        """Token ids of questions with their contexts; a long context gives several windows.

        Args:
            pairs: (question, context); questions are cut to 64 tokens, or fewer where ``max_length`` is small.
            stride: tokens that two windows share, at most a third of ``max_length``.

        Returns:
            encodings; int64 ``[windows]`` the pair of each; and of each int64 ``[tokens, 2]`` the characters
            of the context that a token stands for, -1 for what is not context.

        Raises:
            BqcError: ``max_length`` leaves no room for a window.
        """
        if self.max_length < SHORTEST_WINDOW:
            raise BqcError(f"questions with contexts need --max-length {SHORTEST_WINDOW} or more")
        questions = self._shortened(
            [question for question, _ in pairs], min(LONGEST_QUESTION, self.max_length // 3)
        )
        self._tokenizer.enable_truncation(
            self.max_length, stride=min(stride, self.max_length // 3), strategy="only_second"
        )
        encodings, owners, offsets = [], [], []
        contexts = [context for _, context in pairs]
        for row, item in enumerate(self._tokenizer.encode_batch(list(zip(questions, contexts, strict=True)))):
            for window in (item, *item.overflowing):
                places = np.asarray(window.offsets, dtype=np.int64).reshape(-1, 2)
                context = np.asarray([sequence == 1 for sequence in window.sequence_ids])
                encodings.append(_encoding(window))
                owners.append(row)
                offsets.append(np.where(context[:, None], places, -1))
        return encodings, np.asarray(owners, dtype=np.int64), offsets

    def _shortened(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Texts without what comes after so many tokens."""
        self._tokenizer.no_truncation()
        items = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            text[: item.offsets[tokens - 1][1]] if len(item.ids) > tokens else text
            for text, item in zip(texts, items, strict=True)
        ]


def _encoding(item: Any) -> Encoding:
    return Encoding(list(item.ids), list(item.type_ids))


def _positions(config: dict[str, Any], default: int) -> int:
    """Tokens the model has positions for. RoBERTa's table begins after the padding id."""
    positions = int(config.get("max_position_embeddings", default))
    roberta = str(config.get("model_type", "")) in ROBERTA_POSITIONS
    return positions - int(config.get("pad_token_id") or 0) - 1 if roberta else positions


def _word_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer, with the space before each word that byte-level BPE has learned."""
    content = json.loads(tokenizer.to_str())
    stage = content.get("pre_tokenizer") or {}
    byte_level = [
        part for part in (stage, *stage.get("pretokenizers", ())) if part.get("type") == "ByteLevel"
    ]
    if not byte_level:
        return tokenizer
    for part in byte_level:
        part["add_prefix_space"] = True
    return type(tokenizer).from_str(json.dumps(content))


def batches(encodings: Sequence[Encoding], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row indices in batches of ``size``, longest first: little is padded and the peak comes at once."""
    lengths = np.asarray([len(item.ids) for item in encodings], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]

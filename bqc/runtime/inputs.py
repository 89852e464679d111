"""What an encoder's inputs mean, and how to feed them whatever the exporter called or typed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from bqc.errors import BqcError
from bqc.ir.inputs import (
    ADDED,
    HIDDEN,
    INPUTS_KEY,
    LEAST_SHOWN,
    MASK,
    POSITIONS,
    SHOWN,
    TOKEN_IDS,
    TYPES,
    InputSpec,
    InputSpecs,
    as_mask,
)

__all__ = ["DTYPES", "Batch", "EncoderInputs", "stored"]

# Names in use by transformers, tf2onnx, the original BERT code and torch.nn.Transformer (whose masks are 1 at
# padding), in the order in which they are tried.
_NAMES = {
    "input_ids": InputSpec(TOKEN_IDS),
    "input_word_ids": InputSpec(TOKEN_IDS),
    "attention_mask": InputSpec(MASK),
    "input_mask": InputSpec(MASK),
    "padding_mask": InputSpec(MASK, form=HIDDEN),
    "key_padding_mask": InputSpec(MASK, form=HIDDEN),
    "src_key_padding_mask": InputSpec(MASK, form=HIDDEN),
    "token_type_ids": InputSpec(TYPES),
    "segment_ids": InputSpec(TYPES),
    "input_type_ids": InputSpec(TYPES),
    "position_ids": InputSpec(POSITIONS),
}

DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
}
"""Types of inputs, as ONNX Runtime calls them, and numpy's."""


@dataclass(frozen=True)
class Batch:
    """Token ids, attention mask (1 at tokens, 0 at padding) and token types: int64 ``[batch, sequence]``."""

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncoderInputs:
    """The inputs of a session, told apart.

    Attributes:
        specs: input name -> what it takes.
        dtypes: input name -> numpy dtype it takes.
        ranks: input name -> its axes: 2, or up to 4 of a mask ``[batch, 1, 1, sequence]``.
        batch: the batch size, where the graph fixes it.
        sequence: the sequence length in tokens, where the graph fixes it.
        longest: tokens of the longest sequence that the tables allow; 0 where that is not known.
    """

    specs: dict[str, InputSpec]
    dtypes: dict[str, npt.DTypeLike]
    ranks: dict[str, int]
    batch: int | None
    sequence: int | None
    longest: int = 0

    @classmethod
    def of(cls, session: onnxruntime.InferenceSession, specs: InputSpecs | None = None) -> EncoderInputs:
        """Read the inputs of a session: as ``specs`` say, else as the model's metadata tells, else by their names.

        Raises:
            BqcError: an input is none that an encoder has, no input takes token ids, or the metadata is damaged.
        """
        inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
        return cls._told_apart(inputs, specs or stored(session))

    @classmethod
    def of_model(cls, model: ir.Model) -> EncoderInputs:
        """Read the inputs of a model that is not a session. Raises BqcError as `of` does."""
        inputs = []
        for value in model.graph.inputs:
            kind = "unknown" if value.dtype is None else f"tensor({value.dtype.name.lower()})"
            shape = [] if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
            inputs.append((value.name or "", kind, shape))
        return cls._told_apart(inputs, InputSpecs.of_json(model.metadata_props.get(INPUTS_KEY)))

    @classmethod
    def _told_apart(
        cls, inputs: Sequence[tuple[str, str, Sequence[int | str | None]]], known: InputSpecs
    ) -> EncoderInputs:
        specs, dtypes, ranks = dict[str, InputSpec](), dict[str, npt.DTypeLike](), dict[str, int]()
        batch: int | None = None
        sequence: int | None = None
        for name, kind, shape in inputs:
            one = known.inputs.get(name) or _NAMES.get(name.split(":")[0].lower())
            # An input of unknown rank has no sizes, either; `import-mend` reads it so, too.
            sizes = list(shape) or [None, None]
            if one is None or kind not in DTYPES or not _fits(one, sizes):
                raise BqcError(
                    f"input {name} ({kind}, shape {list(shape)}) is none of an encoder's: "
                    f"expected [batch, sequence] inputs named {', '.join(_NAMES)}"
                )
            specs[name], dtypes[name], ranks[name] = one, DTYPES[kind], len(sizes)
            batch = sizes[0] if isinstance(sizes[0], int) else batch
            sequence = sizes[-1] if isinstance(sizes[-1], int) else sequence
        if not any(one.role == TOKEN_IDS for one in specs.values()):
            raise BqcError(f"no input takes token ids (found {', '.join(specs) or 'none'})")
        return cls(specs, dtypes, ranks, batch, sequence, known.longest)

    def feeds(self, batch: Batch) -> dict[str, npt.NDArray[np.generic]]:
        """The session's feeds for one batch; inputs the model does not have are left out."""
        size, width = batch.ids.shape
        values: Mapping[str, npt.NDArray[np.int64]] = {
            TOKEN_IDS: batch.ids,
            TYPES: batch.types,
            POSITIONS: np.broadcast_to(np.arange(width, dtype=np.int64), batch.ids.shape),
        }
        feeds: dict[str, npt.NDArray[np.generic]] = {}
        for name, one in self.specs.items():
            if one.role == MASK:
                shape = (size, *[1] * (self.ranks[name] - 2), width)
                feeds[name] = as_mask(batch.mask, one.form, shape).astype(self.dtypes[name])
            else:
                feeds[name] = values[one.role].astype(self.dtypes[name])
        return feeds

    @property
    def token_ids(self) -> str:
        """The input that takes token ids."""
        return next(name for name, one in self.specs.items() if one.role == TOKEN_IDS)

    @property
    def token_types(self) -> str | None:
        """The input that takes token types, if the model has one."""
        return next((name for name, one in self.specs.items() if one.role == TYPES), None)

    @property
    def vocabulary(self) -> int:
        """Rows of the smallest table that token ids look up; 0 where that is not known."""
        return min(one.rows for one in self.specs.values() if one.role == TOKEN_IDS)

    @property
    def types(self) -> int:
        """Token types there are: 1 where that is not known, or none is an input."""
        return 1 if self.token_types is None else max(self.specs[self.token_types].rows, 1)

    def mask_of(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.bool_]:
        """Positions of feeds that hold a token, bool ``[batch, sequence]``; all, if there is no mask."""
        shape = feeds[self.token_ids].shape
        for name, one in self.specs.items():
            if one.role == MASK:
                given = feeds[name].reshape(shape)
                if one.form == ADDED:
                    return np.asarray(given.astype(np.float64) >= LEAST_SHOWN)
                return np.asarray(given.astype(np.bool_) == (one.form == SHOWN))
        return np.ones(shape, dtype=np.bool_)


def stored(session: onnxruntime.InferenceSession) -> InputSpecs:
    """What a model's metadata tells of its inputs; nothing of one that bqc did not write. Raises BqcError."""
    return InputSpecs.of_json(session.get_modelmeta().custom_metadata_map.get(INPUTS_KEY))


def _fits(spec: InputSpec, sizes: Sequence[int | str | None]) -> bool:
    """Is it ``[batch, sequence]``, or of a mask with axes of one between?"""
    between = sizes[1:-1]
    return len(sizes) >= 2 and (not between or (spec.role == MASK and all(size == 1 for size in between)))

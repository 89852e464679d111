"""What an encoder's inputs mean, and how to feed them whatever the exporter called or typed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime

from bqc.errors import BqcError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Batch", "EncoderInputs"]

_TOKEN_IDS, _MASK, _PADDING, _TYPES, _POSITIONS = "token ids", "mask", "padding", "types", "positions"

# Names in use by transformers, tf2onnx, the original BERT code and torch.nn.Transformer (whose masks are 1 at
# padding), in the order in which they are tried.
_ROLES = {
    "input_ids": _TOKEN_IDS,
    "input_word_ids": _TOKEN_IDS,
    "attention_mask": _MASK,
    "input_mask": _MASK,
    "padding_mask": _PADDING,
    "key_padding_mask": _PADDING,
    "src_key_padding_mask": _PADDING,
    "token_type_ids": _TYPES,
    "segment_ids": _TYPES,
    "input_type_ids": _TYPES,
    "position_ids": _POSITIONS,
}

_DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(bool)": np.bool_,
}


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
        roles: input name -> what it takes.
        dtypes: input name -> numpy dtype it takes.
        batch: the batch size, where the graph fixes it.
        sequence: the sequence length in tokens, where the graph fixes it.
    """

    roles: dict[str, str]
    dtypes: dict[str, npt.DTypeLike]
    batch: int | None
    sequence: int | None

    @classmethod
    def of(cls, session: onnxruntime.InferenceSession) -> EncoderInputs:
        """Read the inputs of a session.

        Raises:
            BqcError: an input is none that an encoder has, or no input takes token ids.
        """
        return cls._told_apart([(value.name, value.type, value.shape) for value in session.get_inputs()])

    @classmethod
    def of_graph(cls, graph: ir.Graph) -> EncoderInputs:
        """Read the inputs of a graph. Raises BqcError as `of` does."""
        inputs = []
        for value in graph.inputs:
            kind = "unknown" if value.dtype is None else f"tensor({value.dtype.name.lower()})"
            shape = [] if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
            inputs.append((value.name or "", kind, shape))
        return cls._told_apart(inputs)

    @classmethod
    def _told_apart(cls, inputs: Sequence[tuple[str, str, Sequence[int | str | None]]]) -> EncoderInputs:
        roles, dtypes = {}, {}
        fixed: list[int | None] = [None, None]
        for name, kind, shape in inputs:
            role = _ROLES.get(name.split(":")[0].lower())
            if role is None or kind not in _DTYPES or len(shape) != 2:
                raise BqcError(
                    f"input {name} ({kind}, shape {list(shape)}) is none of an encoder's: "
                    f"expected [batch, sequence] inputs named {', '.join(_ROLES)}"
                )
            roles[name], dtypes[name] = role, _DTYPES[kind]
            for axis, size in enumerate(shape):
                if isinstance(size, int):
                    fixed[axis] = size
        if _TOKEN_IDS not in roles.values():
            raise BqcError(f"no input takes token ids (found {', '.join(roles) or 'none'})")
        return cls(roles, dtypes, *fixed)

    def feeds(self, batch: Batch) -> dict[str, npt.NDArray[np.generic]]:
        """The session's feeds for one batch; inputs the model does not have are left out."""
        width = batch.ids.shape[1]
        values: Mapping[str, npt.NDArray[np.int64]] = {
            _TOKEN_IDS: batch.ids,
            _MASK: batch.mask,
            _PADDING: 1 - batch.mask,
            _TYPES: batch.types,
            _POSITIONS: np.broadcast_to(np.arange(width, dtype=np.int64), batch.ids.shape),
        }
        return {name: values[role].astype(self.dtypes[name]) for name, role in self.roles.items()}

    @property
    def token_ids(self) -> str:
        """The input that takes token ids."""
        return next(name for name, role in self.roles.items() if role == _TOKEN_IDS)

    @property
    def token_types(self) -> str | None:
        """The input that takes token types, if the model has one."""
        return next((name for name, role in self.roles.items() if role == _TYPES), None)

    def mask_of(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.bool_]:
        """Positions of feeds that hold a token, bool ``[batch, sequence]``; all, if there is no mask."""
        for name, role in self.roles.items():
            if role in (_MASK, _PADDING):
                shown = feeds[name].astype(np.bool_)
                return shown if role == _MASK else ~shown
        return np.ones(feeds[self.token_ids].shape, dtype=np.bool_)

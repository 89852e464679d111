"""Batches that hold every id: what is done to one id of a vocabulary is seen on no other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bqc.ir.probe import Sizes

__all__ = ["every_id"]

_TOKENS = 1 << 14


def every_id(graph: ir.Graph, sequence: int, top: int) -> Iterator[npt.NDArray[np.int64]]:
    """All of `0 .. top - 1` as int64 `[B, S]`, in as many batches as needed; S is `sequence` if the graph takes it."""
    rows = min(-(-top // sequence), max(_TOKENS // sequence, 1))
    sizes = Sizes(rows, sequence).within(graph)
    each = sizes.batch * sizes.sequence
    numbers = np.arange(-(-top // each) * each) % top
    yield from numbers.reshape(-1, sizes.batch, sizes.sequence)

"""How N:M-sparse codes lie in the file.

Tiles ``n16s4``, uint8 [ceil16(N)/16, steps * step bytes]. A step holds four kept codes of each of 16 outputs, which are
those of ``4 * of / kept`` inputs of K' (8 of 2:4 and 4:8, 16 of 1:4 and 2:8), where K' is K with every group of inputs
padded to a multiple of 16. Position ``4 j + s`` of a step is slot s of output j; slot s belongs to the inputs from
``s // kept * of`` of the step. A strip of 16 outputs is planes that follow each other:

- codes, stored unsigned (``code + 2**(bits - 1)``). Of 8 bits a byte each, 64 a step; of 4 bits 32 bytes a step, byte b
  being positions b (low nibble) and ``b + 32``.
- the low two bits of indices: which of the ``of`` inputs a slot is. 16 bytes a step, bits 2f and 2f + 1 of byte b being
  position ``16 f + b``.
- where ``of`` is 8, the third bits: 8 bytes a step, bit f of byte b being position ``8 f + b``.

The indices of an output in ``of`` inputs ascend. Where fewer than ``kept`` codes are not 0, slots are filled with the
first inputs whose code is 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bqc.formats.layouts import group_pad, padded_inputs

__all__ = [
    "keep_largest",
    "pack_sparse_tiles",
    "step_bytes",
    "step_inputs",
    "strip_bytes",
    "unpack_sparse_tiles",
]

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]


def step_inputs(kept: int, of: int) -> int:
    """Inputs of a step."""
    return 4 * of // kept


def step_bytes(of: int, bits: int) -> int:
    """Bytes of a step: codes, then indices of 2 or 3 bits."""
    return 8 * bits + (24 if of == 8 else 16)


def strip_bytes(columns: int, kept: int, of: int, bits: int, group: int = 0) -> int:
    """Bytes of 16 outputs of ``columns`` inputs."""
    return padded_inputs(columns, group) // step_inputs(kept, of) * step_bytes(of, bits)


def keep_largest(magnitudes: NDArray[np.float32] | I8, kept: int) -> NDArray[np.bool_]:
    """Which of magnitudes [..., of] are the ``kept`` largest along the last axis; of equal ones, the first."""
    of = magnitudes.shape[-1]
    columns = [magnitudes[..., i] for i in range(of)]
    # How many of the others come before each.
    ranks = [np.zeros(magnitudes.shape[:-1], np.int8) for _ in range(of)]
    for i in range(of):
        for j in range(i + 1, of):
            later = columns[j] > columns[i]
            ranks[i] += later
            ranks[j] += ~later
    return np.stack(ranks, axis=-1) < kept


def pack_sparse_tiles(codes: I8, kept: int, of: int, bits: int, group: int = 0) -> U8:
    """int8 [N, K], of which no more than ``kept`` of ``of`` consecutive inputs are not 0, -> uint8 [strips, bytes].

    Raises ValueError where more are.
    """
    rows, columns = codes.shape
    span = group or columns
    padded = np.zeros((-(-rows // 16) * 16, columns // span, group_pad(span)), np.int8)
    padded[:rows, :, :span] = codes.reshape(rows, -1, span)
    parts = padded.reshape(len(padded), -1, of)
    if (np.count_nonzero(parts, axis=-1) > kept).any():
        raise ValueError(f"more than {kept} of {of} consecutive codes are not 0")
    # A stable sort by whether they are kept leaves their order alone.
    places = np.argsort(~keep_largest(np.abs(parts), kept), axis=-1, kind="stable")[..., :kept]
    values = _steps(np.take_along_axis(parts, places, axis=-1))
    indices = _steps(places.astype(np.uint8))
    unsigned = (values.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    planes = [
        unsigned if bits == 8 else unsigned[..., :32] | unsigned[..., 32:] << 4,
        _fields(indices & 3, 2),
    ]
    if of == 8:
        planes.append(_fields(indices >> 2, 1))
    return np.concatenate([plane.reshape(len(plane), -1) for plane in planes], axis=1)


def unpack_sparse_tiles(
    packed: U8, rows: int, columns: int, kept: int, of: int, bits: int, group: int = 0
) -> I8:
    """Inverse of `pack_sparse_tiles`: int8 [N, K] = [``rows``, ``columns``]."""
    strips = len(packed)
    span, inputs = group or columns, padded_inputs(columns, group)
    steps = inputs // step_inputs(kept, of)
    sizes = (8 * bits, 16, 8 if of == 8 else 0)
    ends = np.cumsum([steps * size for size in sizes])
    codes, low, high = (plane.reshape(strips, steps, -1) for plane in np.split(packed, ends[:2], axis=1))
    unsigned = codes if bits == 8 else np.concatenate([codes & 15, codes >> 4], axis=-1)
    indices = _positions(low, 2)
    if of == 8:
        indices = np.bitwise_or(indices, _positions(high, 1) << np.uint8(2))
    values = (unsigned.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
    dense = np.zeros((strips * 16, inputs // of, of), np.int8)
    np.put_along_axis(dense, _slots(indices, kept).astype(np.int64), _slots(values, kept), axis=-1)
    grouped = dense.reshape(strips * 16, columns // span, group_pad(span))[:rows, :, :span]
    return np.ascontiguousarray(grouped).reshape(rows, columns)


def _steps(slots: NDArray[np.int8] | U8) -> NDArray[np.int8] | U8:
    """[ceil16(N), K' / of, kept] as [strips, steps, 64]."""
    strips = len(slots) // 16
    return slots.reshape(strips, 16, -1, 4).transpose(0, 2, 1, 3).reshape(strips, -1, 64)


def _slots(steps: NDArray[np.int8] | U8, kept: int) -> NDArray[np.int8] | U8:
    """Inverse of `_steps`."""
    strips = len(steps)
    return steps.reshape(strips, -1, 16, 4).transpose(0, 2, 1, 3).reshape(strips * 16, -1, kept)


def _fields(numbers: NDArray[np.int8] | U8, bits: int) -> U8:
    """Numbers [..., 64] of so many bits as fields of bytes [..., 8 * bits]: the first of them in the lowest bits."""
    split = numbers.astype(np.uint8).reshape(*numbers.shape[:-1], 8 // bits, 8 * bits)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return np.asarray((split << shifts).sum(axis=-2), np.uint8)


def _positions(packed: U8, bits: int) -> U8:
    """Inverse of `_fields`."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = packed[..., None, :] >> shifts & np.uint8(2**bits - 1)
    return np.asarray(fields.reshape(*packed.shape[:-1], 64), np.uint8)

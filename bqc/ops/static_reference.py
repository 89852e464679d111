"""The operators with given scales in numpy; see `bqc.ops.reference`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import encode, power_of_two
from bqc.formats.geometry import Blocks
from bqc.formats.static import shifted, static_exponent, static_zero

__all__ = ["static_quantize", "static_quantize_values"]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]


def static_quantize(
    x: F32, exponent: F32, *, bits: int, block: int, group: int, minimum: float
) -> tuple[I8, I8, F32]:
    """Codes and exponents of x [..., K], all exponents the one given, and the offset [1] of the codes.

    The exponent [1] is rounded half to even. x is ``codes * 2**exponents - offset``, the offset ``zero * 2**exponent``
    and ``zero = clamp(low - round(minimum * 2**-exponent), low, 0)`` the code of 0.
    """
    e = static_exponent(exponent)
    zero = static_zero(e, bits, minimum)
    blocks = Blocks(x.shape[-1], block, group)
    exponents = np.full((*x.shape[:-1], blocks.count), e, np.int8)
    offset = np.array([zero], np.float32) * power_of_two(np.array([e]))
    return encode(shifted(x, e, zero), exponents, blocks.owner, bits), exponents, offset


def static_quantize_values(x: F32, exponent: F32, *, heads: int, bits: int, block: int) -> tuple[I8, I8]:
    """As `static_quantize` of x [B, S, H] in groups of a head, exponents int8 [B, n] as of `block_quantize_values`."""
    e = static_exponent(exponent)
    blocks = Blocks(x.shape[-1], block, x.shape[-1] // heads)
    exponents = np.full((x.shape[0], blocks.count), e, np.int8)
    return encode(shifted(x, e, 0), exponents[:, None, :], blocks.owner, bits), exponents

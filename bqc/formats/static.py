"""``Static(bits, exponent)``: integers of one power-of-two scale a tensor, which training learns.

``value = (code - zero) * 2**exponent``. Sources: LSQ (Esser et al., arXiv 1902.08153) for scales that are learned, TQT
(Jain et al., arXiv 1903.08066) for powers of two, BinaryBERT (arXiv 2012.15701) for codes that are not centred.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bqc.formats.block_shift import ACTIVATION_BITS, BlockShift, encode, power_of_two, sanitize
from bqc.formats.geometry import Blocks
from bqc.ops.constants import FLT_MAX, MAX_STATIC_EXPONENT, MIN_EXPONENT

__all__ = ["GELU_MINIMUM", "Static", "shifted", "static_exponent", "static_zero"]

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]

GELU_MINIMUM = -0.17
"""Smallest value of GELU, in both of its forms."""
_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
_TEXT = re.compile(rf"Static\((\d+)(?:,({_NUMBER}))?(?:,min=({_NUMBER}))?(?:,group=(\d+))?\)")


@dataclass(frozen=True)
class Static:
    """Quantisation of an activation with a scale that is known before it is.

    Args:
        bits: 8, 6 or 4; codes have the range of `BlockShift`.
        exponent: of the scale, a whole number in the end; in training it has a fraction and is rounded (half to even).
            None until it is calibrated.
        minimum: nothing is smaller than this number, at most 0: codes need not be centred. None for no such number.
        group: as of `BlockShift`: products with this format end with a multiple of it.

    Raises ValueError for other bits, an exponent that no scale has or a minimum above 0.
    """

    bits: int = 8
    exponent: float | None = None
    minimum: float | None = None
    group: int = 0
    block: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.bits not in ACTIVATION_BITS:
            raise ValueError(f"Static has no {self.bits}-bit codes; bits is one of 8, 6, 4")
        if self.exponent is not None and not MIN_EXPONENT <= self.exponent <= MAX_STATIC_EXPONENT:
            raise ValueError(
                f"Static has no exponent {self.exponent:g}; it is from {MIN_EXPONENT} to {MAX_STATIC_EXPONENT}"
            )
        if self.minimum is not None and not -FLT_MAX <= self.minimum <= 0:
            raise ValueError(f"Static has no minimum {self.minimum:g}; it is a number of at most 0")

    def __str__(self) -> str:
        # As many digits as give a number back bit for bit, and none after a whole one.
        exponent = "" if self.exponent is None else f",{_text(self.exponent)}"
        minimum = "" if self.minimum is None else f",min={_text(self.minimum)}"
        group = f",group={self.group}" if self.group else ""
        return f"Static({self.bits}{exponent}{minimum}{group})"

    @classmethod
    def parse(cls, text: str) -> Static:
        """Inverse of `str`. Raises ValueError for anything else."""
        match = _TEXT.fullmatch(text.replace(" ", ""))
        if not match:
            raise ValueError(
                f"{text!r} is not a format; write it like Static(8,-4) or Static(4,-2,min=-0.17)"
            )
        bits, exponent, minimum, group = match.groups()
        return cls(
            int(bits),
            None if exponent is None else float(exponent),
            None if minimum is None else float(minimum),
            int(group or 0),
        )

    def block_size(self, length: int) -> int:
        """Elements of a block in a row of ``length``: all of them."""
        return length

    def blocks(self, length: int) -> Blocks:
        """The blocks of a row of ``length`` elements, which all have the same exponent."""
        return Blocks(length, length, self.group)

    def quantize(self, x: NDArray[Any]) -> tuple[I8, I8]:
        """Codes int8 [..., K] and exponents int8 [..., blocks] of x [..., K].

        Raises ValueError where there is no exponent yet.
        """
        exponent = self._known()
        blocks = self.blocks(x.shape[-1])
        exponents = np.full((*x.shape[:-1], blocks.count), exponent, np.int8)
        codes = encode(shifted(x, exponent, self.zero), exponents, blocks.owner, self.bits)
        return codes, exponents

    def dequantize(self, codes: I8, exponents: I8) -> F32:
        """float32 [..., K] from codes int8 [..., K] and exponents int8 [..., blocks]."""
        scale = power_of_two(exponents[..., self.blocks(codes.shape[-1]).owner])
        result: F32 = codes.astype(np.float32) * scale - np.float32(self.zero) * scale
        return result

    @property
    def zero(self) -> int:
        """The code of 0."""
        return static_zero(self._known(), self.bits, -FLT_MAX if self.minimum is None else self.minimum)

    def _known(self) -> np.int8:
        if self.exponent is None:
            raise ValueError(f"{self} has no exponent yet")
        return static_exponent(np.array(self.exponent, np.float32))


def static_exponent(exponent: F32) -> np.int8:
    """A number as an exponent: rounded half to even, NaN 0, within the range."""
    return np.int8(np.clip(np.rint(sanitize(exponent)), MIN_EXPONENT, MAX_STATIC_EXPONENT).reshape(()))


def static_zero(exponent: np.int8, bits: int, minimum: float) -> int:
    """The code of 0: the smallest for which the ``minimum``, rounded, has a code too; 0 where that is above it."""
    low = np.float32(BlockShift(bits).low)
    with np.errstate(over="ignore"):
        below = np.rint(np.float32(minimum) * power_of_two(-np.int32(exponent)))
    return int(np.clip(low - below, low, np.float32(0)))


@np.errstate(over="ignore")
def shifted(x: NDArray[Any], exponent: np.int8, zero: int) -> F32:
    """float32 x + zero * 2**exponent, sanitised; NaN counts as 0 before."""
    x32 = np.asarray(x, np.float32)
    offset = np.float32(zero) * power_of_two(np.array(exponent))
    return sanitize(np.where(np.isnan(x32), np.float32(0), x32) + offset)


def _text(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(float(number))

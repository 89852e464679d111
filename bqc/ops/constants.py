"""Every number that the operator definitions share: tables and polynomial coefficients.

Bodies, numpy references and C++ kernels take them from here (the C++ header is compared with this file by a
test). All are exact binary32 values, written in hexadecimal. Fitted on Chebyshev nodes; largest errors,
evaluated in binary32 against binary64 functions: ``EXP2`` 8.4e-8 relative on [0, 1], ``GELU`` 1.5e-6
absolute everywhere.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "EXP2",
    "FLOAT_SOFTMAX_LOW",
    "FLT_MAX",
    "FLT_MIN",
    "GELU_ERF",
    "GELU_LIMIT",
    "GELU_TANH",
    "HALF_MAX",
    "LOG2E",
    "MAX_EXPONENT",
    "MAX_STATIC_EXPONENT",
    "MIN_EXPONENT",
    "NORM_BITS",
    "POWERS",
    "SOFTMAX_LOW",
    "SOFTMAX_SCALE",
    "TANH_LIMIT",
]

FLT_MAX = float(np.finfo(np.float32).max)
FLT_MIN = 2.0**-126
"""Smallest normal binary32; smaller magnitudes count as zero."""
HALF_MAX = 65504.0
"""Largest fp16 number."""

MIN_EXPONENT = -126
"""Exponent of an all-zero block, and the smallest there is."""
MAX_EXPONENT = 127
MAX_STATIC_EXPONENT = 119
"""Largest given exponent: a zero point at it is still a finite number."""

POWERS = np.ldexp(np.float32(1), np.arange(MIN_EXPONENT, MAX_EXPONENT + 1)).astype(np.float32)
"""``POWERS[e + 126] == 2**e`` for e in [-126, 127]."""

LOG2E = float.fromhex("0x1.7154760000000p+0")
EXP2 = tuple(
    float.fromhex(c)
    for c in (
        "0x1.0000000000000p+0",
        "0x1.62e42c0000000p-1",
        "0x1.ebfd5a0000000p-3",
        "0x1.c688f00000000p-5",
        "0x1.3d0c400000000p-7",
        "0x1.46d3260000000p-10",
        "0x1.c546400000000p-13",
    )
)
"""2**f on [0, 1], ascending powers of f."""

SOFTMAX_SCALE = 255.0
"""Code of a row's largest score."""
SOFTMAX_LOW = -24.0
"""Base-2 logarithms below this give code 0 in any case."""
FLOAT_SOFTMAX_LOW = -64.0
"""The same of float weights, which are never less than 2 to this: all keys that far below the largest one together
are less than its last bit, and their products with values of 2**-62 and more are normal numbers."""

TANH_LIMIT = 9.0
"""|x| from which tanh is 1 in binary32 (to within one code of any block format)."""

GELU_LIMIT = 5.0
"""|x| from which GELU(x) is x or 0."""
GELU_ERF = tuple(
    float.fromhex(c)
    for c in (
        "0x1.2183560000000p-3",
        "-0x1.1fef120000000p-4",
        "0x1.a60f720000000p-5",
        "-0x1.4b4ac40000000p-5",
        "0x1.0184a80000000p-5",
        "-0x1.7d68f60000000p-6",
        "0x1.0d453a0000000p-6",
        "-0x1.6ced1c0000000p-7",
        "0x1.9f85d60000000p-8",
        "-0x1.6408820000000p-9",
        "0x1.d592ae0000000p-10",
        "-0x1.a3af500000000p-10",
        "0x1.321bc00000000p-11",
    )
)
"""(Phi(t) - 1/2) / t as a polynomial in w = 0.08 t^2 - 1, for |t| <= GELU_LIMIT; Phi is the normal distribution."""
GELU_TANH = tuple(
    float.fromhex(c)
    for c in (
        "0x1.218b0e0000000p-3",
        "-0x1.2038020000000p-4",
        "0x1.a72e300000000p-5",
        "-0x1.4c1a020000000p-5",
        "0x1.00bc1e0000000p-5",
        "-0x1.793d2a0000000p-6",
        "0x1.0757320000000p-6",
        "-0x1.56b9f00000000p-7",
        "0x1.76e2780000000p-8",
        "-0x1.8d04920000000p-9",
        "0x1.5d896e0000000p-9",
        "-0x1.0d18840000000p-9",
        "0x1.4d45c80000000p-11",
    )
)
"""The same for tanh(sqrt(2/pi) (t + 0.044715 t^3)) / 2."""

NORM_BITS = 20
"""LayerNormalization turns a row into integers of at most 2**20 before it sums."""

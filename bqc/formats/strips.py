"""How fp16 numbers, or indices of them, lie in the file: a matrix [N, K] in strips of 16 outputs, layout ``n16``.

An array [ceil16(N)/16, K, 16] of the matrix's own type: the 16 outputs of a strip follow each other, input by input,
as a vector unit multiplies them. Outputs that are padding are 0. Lookup tables are stored as they are, layout ``row``.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_strips", "unpack_strips"]

_Type = TypeVar("_Type", bound=np.generic)


def pack_strips(matrix: NDArray[_Type]) -> NDArray[_Type]:
    """[N, K] -> [ceil16(N)/16, K, 16]."""
    rows, columns = matrix.shape
    padded: NDArray[Any] = np.pad(matrix, ((0, -rows % 16), (0, 0)))
    return np.ascontiguousarray(padded.reshape(-1, 16, columns).transpose(0, 2, 1))


def unpack_strips(tiles: NDArray[_Type], rows: int) -> NDArray[_Type]:
    """Inverse of `pack_strips`; ``rows`` is N."""
    return np.ascontiguousarray(tiles.transpose(0, 2, 1).reshape(-1, tiles.shape[1])[:rows])

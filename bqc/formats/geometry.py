"""How a row is cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks"]


@dataclass(frozen=True)
class Blocks:
    """Blocks of a row of ``length`` elements.

    The row is cut into groups of ``group`` elements (attention heads; one group if not given), each group
    into blocks of
    ``block`` elements. The last block of a group may be shorter; a block never crosses a group.

    Raises ValueError if the row is not a whole number of groups.
    """

    length: int
    block: int
    group: int = 0

    def __post_init__(self) -> None:
        if self.length < 1 or self.block < 1:
            raise ValueError(f"blocks of {self.block} in a row of {self.length}: both must be at least 1")
        if self.length % self.span:
            raise ValueError(f"a row of {self.length} is not a whole number of groups of {self.span}")

    @property
    def span(self) -> int:
        """Elements of one group."""
        return self.group or self.length

    @property
    def groups(self) -> int:
        return self.length // self.span

    @property
    def size(self) -> int:
        """Elements of a block that is not the last of its group."""
        return min(self.block, self.span)

    @property
    def per_group(self) -> int:
        """Blocks in one group."""
        return -(-self.span // self.block)

    @property
    def count(self) -> int:
        """Blocks in the row, which is the number of exponents."""
        return self.groups * self.per_group

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First element of each block, int64 [count]."""
        inner = np.arange(self.per_group, dtype=np.int64) * self.block
        outer = np.arange(self.groups, dtype=np.int64) * self.span
        return (outer[:, None] + inner).reshape(-1)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Elements of each block, int64 [count]."""
        return np.diff(np.append(self.starts, self.length))

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """Block of each element, int64 [length]."""
        return np.repeat(np.arange(self.count, dtype=np.int64), self.sizes)

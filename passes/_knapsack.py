"""The 0-1 knapsack, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["best_subset"]


def best_subset(gains: Sequence[float], costs: Sequence[int], capacity: int) -> list[int]:
    """Indices, ascending, of the items of the largest total gain whose costs are at most ``capacity`` together.

    Items without gain are left out; of subsets of the same gain a cheaper one is taken. All combinations that no other
    beats in both gain and cost are kept at once: few, as the weights of an encoder come in few sizes.
    """
    front: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    for item, (gain, cost) in enumerate(zip(gains, costs, strict=True)):
        if gain <= 0:
            continue
        more = [(c + cost, g + gain, (*items, item)) for c, g, items in front if c + cost <= capacity]
        best = -1.0
        front, candidates = [], sorted([*front, *more], key=lambda one: (one[0], -one[1]))
        for one in candidates:
            if one[1] > best:
                front.append(one)
                best = one[1]
    return list(front[-1][2])

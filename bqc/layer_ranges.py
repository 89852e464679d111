"""Keys ``layer:role`` of many layers at once, as recipes write them: ``0-11:ffn.output``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TypeVar

from bqc.errors import BqcError

__all__ = ["MOST_LAYERS", "expanded", "grouped", "written"]

MOST_LAYERS = 1000
"""Layers of a range: what a recipe may ask for without being read as a mistake, or as an attack."""
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9}):(.+)", re.DOTALL | re.ASCII)
_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)
_Value = TypeVar("_Value")


def grouped(entries: Mapping[str, str]) -> dict[str, str]:
    """Neighbouring layers whose roles have the same values, in the same order, as ranges.

    `expanded` gives the entries back, in their order, if those of each layer stand together.
    """
    runs: list[tuple[str, int | None, list[tuple[str, str]]]] = []
    for layer, items in groupby(entries.items(), lambda item: item[0].partition(":")[0]):
        rest = [(key[len(layer) :], value) for key, value in items]
        number = int(layer) if _NUMBER.fullmatch(layer) else None
        first, last, before = runs[-1] if runs else ("", None, [])
        if number is not None and last == number - 1 and before == rest:
            runs[-1] = (first, number, rest)
        else:
            runs.append((layer, number, rest))
    result: dict[str, str] = {}
    for first, last, rest in runs:
        name = first if last is None or first == str(last) else f"{first}-{last}"
        result.update({name + end: value for end, value in rest})
    return result


def expanded(entries: Mapping[str, _Value], where: str) -> dict[str, _Value]:
    """Entries with a key for each layer of a range; entries of one range that stand together go layer by layer.

    A layer's own entry, wherever it is, goes before that of a range.

    Raises BqcError, beginning with ``where``, for a range that runs backwards or is longer than `MOST_LAYERS`, and for
    a key that is in two ranges.
    """
    result: dict[str, _Value] = {}
    for bounds, items in groupby(entries.items(), lambda item: _bounds(item[0], where)):
        if bounds is None:
            result.update(items)
            continue
        roles = list(items)
        for layer in range(bounds[0], bounds[1] + 1):
            for name, value in roles:
                key = f"{layer}:{name.partition(':')[2]}"
                if key in result and key not in entries:
                    raise BqcError(f"{where}: {name}: {key} is in two ranges of layers")
                result[key] = entries.get(key, value)
    return result


def written(key: str, entries: Iterable[str]) -> str:
    """Of entries that `expanded` takes, the one that gives ``key``: its own, else a range."""
    keys = list(entries)
    ranges = (name for name in keys if key in expanded({name: ""}, ""))
    return key if key in keys else next(ranges, key)


def _bounds(key: str, where: str) -> tuple[int, int] | None:
    """First and last layer; None if the key is of one layer."""
    match = _RANGE.fullmatch(key)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + MOST_LAYERS:
        raise BqcError(
            f"{where}: {key}: layers {first} to {last} are no range; it rises, and has at most {MOST_LAYERS}"
        )
    return first, last

"""Schemes: one file a published system.

A scheme turns options into a pipeline of passes and states its bounds.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

from bqc.errors import BqcError

__all__ = ["scheme_class", "scheme_with"]

_GROUP = "bqc.schemes"


def scheme_class(name: str, *, besides: tuple[str, ...] = ()) -> Any:
    """The class of a scheme. Raises BqcError for an unknown name.

    ``besides`` are names that the caller takes too, for the text of the error.
    """
    own = {"bbct": "Bbct", "binarybert": "Binarybert"}
    if name in own:
        return getattr(importlib.import_module(f"bqc.schemes.{name}"), own[name])
    installed = {entry.name: entry for entry in entry_points(group=_GROUP)}
    if name in installed:
        return installed[name].load()
    known = [*own, *sorted(installed), *besides]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise BqcError(f"unknown scheme {name!r}; {hint}")


def scheme_with(name: str, options: Mapping[str, Any], *, besides: tuple[str, ...] = ()) -> Any:
    """A scheme with these options. Raises BqcError for an unknown name or option, or a wrong value.

    ``besides`` as in `scheme_class`.
    """
    kind = scheme_class(name, besides=besides)
    valid = [field.name for field in fields(kind)]
    for option in options:
        if option not in valid:
            near = difflib.get_close_matches(option, valid, n=1)
            raise BqcError(
                f"scheme {name} has no option {option!r}" + (f"; did you mean {near[0]}?" if near else "")
            )
    return kind(**options)

"""The textual form of a pipeline: ``annotate-anatomy,plan-bbct{weight_bits=4 exclude=0:*,head},quantize-weights``.

A pass is written by its name; its options, which are the fields of its dataclass, follow in braces, separated by
spaces. A value with a comma is a list. What would be read as punctuation is quoted: ``{text="a b"}``.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import onnx_ir as ir

from bqc.errors import BqcError
from bqc.passes import names, pass_class, pass_name

__all__ = ["parse", "spell", "spell_value"]

_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<mark>[{},=])|(?P<word>[^\s{},="]+))')
_PLAIN = re.compile(r"[^\s{},=\"]+")

Pass = ir.passes.InPlacePass


def parse(text: str) -> list[Pass]:
    """Passes from their textual form.

    Raises BqcError that names the column (from 1), and the nearest name where one is unknown.
    """
    return _Reader(text).pipeline()


def spell(passes: Sequence[Pass]) -> str:
    """Inverse of `parse`; options that have their default value are left out."""
    return ",".join(pass_name(one) + _options(one) for one in passes)


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def pipeline(self) -> list[Pass]:
        passes = [self.one()]
        while self.peek() is not None:
            self.mark(",")
            passes.append(self.one())
        return passes

    def one(self) -> Pass:
        column, name = self.word("the name of a pass")
        try:
            kind = pass_class(name)
        except KeyError:
            near = difflib.get_close_matches(name, names(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise self.error(column, f"no pass {name!r}{hint}") from None
        options: dict[str, Any] = {}
        if self.peek() == "{":
            self.mark("{")
            while self.peek() != "}":
                where = self.column()
                key, value = self.option(kind, name)
                if key in options:
                    raise self.error(where, f"{name}: {key} is given twice")
                options[key] = value
            self.mark("}")
        missing = [f.name for f in fields(kind) if _is_required(f) and f.name not in options]
        if missing:
            raise self.error(column, f"{name} needs {', '.join(missing)}")
        try:
            made: Pass = kind(**options)
        except (TypeError, ValueError, BqcError) as error:
            raise self.error(column, f"{name}: {error}") from None
        return made

    def option(self, kind: Any, name: str) -> tuple[str, Any]:
        column, key = self.word(f"an option of {name} or '}}'")
        known = {f.name for f in fields(kind)}
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
            raise self.error(column, f"{name} has no option {key!r}; {hint}")
        self.mark("=")
        where, first = self.word(f"a value for {key}")
        values = [first]
        while self.peek() == ",":
            self.mark(",")
            values.append(self.word(f"a value for {key}")[1])
        wanted = get_type_hints(kind)[key]
        try:
            return key, _convert(values, wanted)
        except ValueError as error:
            raise self.error(where, f"{name}: {key}: {error}") from None

    def peek(self) -> str | None:
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            if self.text[self.at :].strip():
                raise self.error(self.at + 1, f"unexpected {self.text[self.at :].strip()[0]!r}")
            return None
        return match.group("mark") or match.group(0).strip()

    def mark(self, wanted: str) -> None:
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.group("mark") != wanted:
            raise self.error(self.at + 1, f"expected {wanted!r}")
        self.at = match.end()

    def word(self, what: str) -> tuple[int, str]:
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.group("mark"):
            raise self.error(self.at + 1, f"expected {what}")
        start = match.start("word") if match.group("word") else match.start("text")
        self.at = match.end()
        quoted = match.group("text")
        try:
            return start + 1, json.loads(quoted, strict=False) if quoted else match.group("word")
        except json.JSONDecodeError as error:
            raise self.error(start + 1 + error.pos, error.msg.lower()) from None

    def column(self) -> int:
        """Of the next token, from 1."""
        return len(self.text) - len(self.text[self.at :].lstrip()) + 1

    def error(self, column: int, message: str) -> BqcError:
        return BqcError(f"pipeline, column {column}: {message}")


def _convert(values: list[str], wanted: Any) -> Any:
    if get_origin(wanted) is tuple:
        inner = get_args(wanted)[0]
        return tuple(_convert([value], inner) for value in values)
    if len(values) > 1:
        raise ValueError(f"takes one value, not {len(values)}")
    choices = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    for kind in (type(None), bool, int, float, str):
        if kind in choices:
            try:
                return _SCALARS[kind](values[0])
            except ValueError:
                continue
    raise ValueError(f"{values[0]!r} is no {' or '.join(_NAMES[kind] for kind in choices)}")


def _none(text: str) -> None:
    if text != "none":
        raise ValueError


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


_SCALARS: dict[Any, Any] = {type(None): _none, bool: _bool, int: int, float: float, str: str}
_NAMES = {type(None): "none", bool: "true or false", int: "whole number", float: "number", str: "text"}


def _options(one: Pass) -> str:
    changed = [f for f in fields(one) if not _is_default(one, f)]  # type: ignore[arg-type]
    written = [f"{f.name}={spell_value(getattr(one, f.name))}" for f in changed]
    return "{" + " ".join(written) + "}" if written else ""


def _is_required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _is_default(one: Pass, f: Field[Any]) -> bool:
    return f.default is not MISSING and getattr(one, f.name) == f.default


def spell_value(value: Any) -> str:
    """The value of an option as it is written in a pipeline."""
    if isinstance(value, tuple):
        return ",".join(spell_value(item) for item in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)

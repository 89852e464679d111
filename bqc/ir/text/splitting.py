"""Several models in one text, for tests: lines ``// -----`` stand between them."""

from __future__ import annotations

import re

__all__ = ["SEPARATOR", "split"]

SEPARATOR = "// -----"
_LINE = re.compile(rf"^{SEPARATOR}-*[ \t]*$", re.MULTILINE)


def split(text: str) -> list[str]:
    """The models of a text. Each is preceded by as many line breaks as it stood below the first line, so that
    errors name the line of the whole text."""
    pieces, start = [], 0
    for match in _LINE.finditer(text):
        pieces.append(_below(text, start, match.start()))
        start = match.end()
    return [*pieces, _below(text, start, len(text))]


def _below(text: str, start: int, end: int) -> str:
    return "\n" * text.count("\n", 0, start) + text[start:end]

"""Tokens of the textual form, and the spelling of names and strings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from bqc.errors import BqcError

__all__ = ["DTYPES", "LABEL", "NESTED_TYPES", "Lexer", "Token", "quote", "spell_name"]

DTYPES = {dtype.name.lower(): dtype for dtype in ir.DataType if dtype != ir.DataType.UNDEFINED}
"""Element types by their name in text: ``float``, ``int64``, ``uint4``, ..."""
NESTED_TYPES = ("seq", "optional", "sparse_tensor")

LABEL = re.compile(r"[\w.]+", re.ASCII)
"""What a layer or a role must look like to be written as ``@layer:role``."""

_TOKEN = re.compile(
    r"""
    (?P<space>(?:\s|//[^\n]*|\#[^\n]*)+)
  | (?P<label>@[\w.]+:[\w.]+)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<number>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|-(?:inf|nan)\b)
  | (?P<ident>[A-Za-z_]\w*(?:\.\w+)*)
  | (?P<mark>\.\.\.|=>|[<>{}\[\](),:=.?@])
    """,
    re.ASCII | re.VERBOSE,
)
_PLAIN = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*", re.ASCII)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_SHORT = {char: f"\\{letter}" for letter, char in _ESCAPES.items()}
_ESCAPE = re.compile(r"\\(?:x(?P<byte>[0-9a-fA-F]{2})|u\{(?P<code>[0-9a-fA-F]{1,6})\}|(?P<letter>.))")
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff]')


@dataclass(frozen=True)
class Token:
    """A piece of text: kind is ``ident``, ``string``, ``number``, ``label``, ``mark`` or ``end``."""

    kind: str
    text: str
    at: int
    """Where it begins, in characters from the start of the text."""

    def __str__(self) -> str:
        return "the end of the text" if self.kind == "end" else repr(self.text[:40])


class Lexer:
    """The tokens of a text, one ahead, and errors that say where."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._end = 0
        self.token = self._next()

    def advance(self) -> Token:
        """The current token; the one after it becomes current."""
        token, self.token = self.token, self._next()
        return token

    def at(self, *marks: str) -> bool:
        """Is one of these marks next?"""
        return self.token.kind == "mark" and self.token.text in marks

    def accept(self, mark: str) -> bool:
        """Step over this mark, if it is next."""
        if self.at(mark):
            self.advance()
            return True
        return False

    def expect(self, mark: str, why: str) -> Token:
        """Step over this mark, or fail: ``expected ')' after the inputs, found ...``."""
        if not self.at(mark):
            raise self.expected(f"{mark!r} {why}")
        return self.advance()

    def list_of(self, one: Callable[[], object], close: str, what: str) -> None:
        """``[one ("," one)*] close``."""
        while not self.accept(close):
            one()
            if not self.at(close):
                self.expect(",", f"or {close!r} after {what}")

    def take(self, kind: str, what: str) -> Token:
        """Step over a token of that kind, or fail."""
        if self.token.kind != kind:
            raise self.expected(what)
        return self.advance()

    def name(self, what: str) -> str:
        """A name, plain or quoted."""
        if self.token.kind == "string":
            return self.string(what)
        return self.take("ident", what).text

    def string(self, what: str) -> str:
        """A quoted string that is valid text."""
        token = self.token
        try:
            return self.bytestring(what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(token, f"{token} is not valid UTF-8") from None

    def bytestring(self, what: str) -> bytes:
        """A quoted string, in UTF-8 but for what is written as ``\\xNN``."""
        token = self.take("string", what)
        text = _ESCAPE.sub(lambda match: self._unescaped(token, match), token.text[1:-1])
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise self.error(token, f"{token} is not valid Unicode") from None

    def expected(self, what: str) -> BqcError:
        """The error that something else is there than ``what``."""
        return self.error(self.token, f"expected {what}, found {self.token}")

    def error(self, token: Token, message: str) -> BqcError:
        """The error ``where:line:column: message``; both count from 1."""
        line = self._text.count("\n", 0, token.at) + 1
        column = token.at - (self._text.rfind("\n", 0, token.at) + 1) + 1
        return BqcError(f"{self._where}:{line}:{column}: {message}")

    def _next(self) -> Token:
        match = _TOKEN.match(self._text, self._end)
        if match is not None and match.lastgroup == "space":
            self._end = match.end()
            match = _TOKEN.match(self._text, self._end)
        if match is None:
            here = Token("end", "", self._end)
            if self._end < len(self._text):
                char = self._text[self._end]
                problem = "a string that does not end on its line" if char == '"' else f"unexpected {char!r}"
                raise self.error(here, problem)
            return here
        start, self._end = self._end, match.end()
        return Token(match.lastgroup or "", match.group(), start)

    def _unescaped(self, token: Token, match: re.Match[str]) -> str:
        if match["byte"]:
            return bytes([int(match["byte"], 16)]).decode("utf-8", "surrogateescape")
        if match["code"]:
            code = int(match["code"], 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise self.error(token, f"no character {match.group()}")
            return chr(code)
        if match["letter"] not in _ESCAPES:
            raise self.error(
                token, f'no escape {match.group()!r}; there are \\n \\t \\r \\" \\\\ \\xNN \\u{{N}}'
            )
        return _ESCAPES[match["letter"]]


def quote(text: str | bytes) -> str:
    """A string as `Lexer` reads it; bytes that are no UTF-8 become ``\\xNN``."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return f'"{_UNSAFE.sub(_escaped, text)}"'


def spell_name(name: str) -> str:
    """A name, quoted unless it is plain and no word of the language."""
    plain = _PLAIN.fullmatch(name) and name not in DTYPES and name not in NESTED_TYPES
    return name if plain else quote(name)


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    if char in _SHORT:
        return _SHORT[char]
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return f"\\x{ord(char):02x}" if char < "\x80" else f"\\u{{{ord(char):x}}}"

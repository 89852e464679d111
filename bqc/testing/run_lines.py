"""RUN lines, executed in this process: starting one for each would take longer than the tests.

A line is ``// RUN: [not] bqc ARGUMENTS | filecheck %s [ARGUMENTS]``; with the file in place of ``%s`` it runs in a
shell too.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bqc.errors import BqcError

__all__ = ["RunLine", "run_lines"]

_RUN = re.compile(r"^\s*(?://|#)\s*RUN:\s*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class RunLine:
    """One RUN line of a file."""

    file: Path
    text: str
    bqc: tuple[str, ...]
    """Arguments of bqc."""
    fails: bool
    """Must bqc fail?"""
    filecheck: tuple[str, ...]
    """Arguments of filecheck."""

    @property
    def prefix(self) -> str:
        """What the check lines of this RUN line begin with."""
        for i, argument in enumerate(self.filecheck):
            name, _, value = argument.partition("=")
            if name.lstrip("-") == "check-prefix":
                return value or self.filecheck[i + 1]
        return "CHECK"

    def output(self) -> str:
        """What bqc prints. Raises BqcError if its exit status is not as the line says."""
        from bqc.cli import main

        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = main(self.bqc)
        if (status != 0) != self.fails:
            raise BqcError(f"{self.text}\nexit status {status}\n{errors.getvalue()}{out.getvalue()}")
        return out.getvalue()

    def check(self) -> str | None:
        """Run bqc and filecheck; what went wrong, or None."""
        from filecheck.main import main

        try:
            printed = self.output()
        except BqcError as error:
            return str(error)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), _stdin(printed):
            try:
                main(["filecheck", *self.filecheck])
            except SystemExit as exit:
                if exit.code:
                    return f"{self.text}\n{errors.getvalue()}\noutput:\n{printed}"
        return None


def run_lines(file: Path) -> list[RunLine]:
    """The RUN lines of a file. Raises BqcError for one that is not of the form above, or if there is none."""
    found = [_parsed(file, text) for text in _RUN.findall(file.read_text(encoding="utf-8"))]
    if not found:
        raise BqcError(f"{file}: no line '// RUN: bqc opt %s -p PASSES -o - | filecheck %s'")
    return found


def _parsed(file: Path, text: str) -> RunLine:
    commands: list[list[str]] = [[]]
    for word in shlex.split(text.replace("%s", shlex.quote(str(file)))):
        if word == "|":
            commands.append([])
        else:
            commands[-1].append(word)
    fails = commands[0][:1] == ["not"]
    first = commands[0][fails:]
    if len(commands) != 2 or first[:1] != ["bqc"] or commands[1][:1] != ["filecheck"]:
        raise BqcError(f"{file}: '{text}' is not of the form '[not] bqc ... | filecheck ...'")
    return RunLine(file, text, tuple(first[1:]), fails, tuple(commands[1][1:]))


@contextlib.contextmanager
def _stdin(text: str) -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        yield
    finally:
        sys.stdin = before

"""Scores that are kept as they are found, so that a killed analysis goes on where it stopped; and finished ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bqc.errors import BqcError
from bqc.sensitivity.scores import Score, Sensitivity
from bqc.staging import write_text

__all__ = ["Journal", "answered"]


def answered(path: Path | None, question: str) -> Sensitivity | None:
    """The result that a file holds, if it answers this question."""
    if path is None or not path.is_file():
        return None
    with suppress(BqcError):  # whatever else the file is, it will be replaced
        found = Sensitivity.read(path)
        return found if found.question == question else None
    return None


class Journal:
    """A file of one JSON line a score, valid for one question.

    Args:
        path: the file; None keeps nothing.
        question: digest of all that the scores depend on. A file that was begun for another is begun anew.
    """

    def __init__(self, path: Path | None, question: str) -> None:
        self._path = path
        self._print = question
        self._begun = False
        self.found = {(score.part, score.key): score for score in self._read()}

    def add(self, score: Score) -> None:
        """Keep a score; it is on the disk when this returns. Raises BqcError if it cannot be."""
        self.found[score.part, score.key] = score
        if self._path is None:
            return
        try:
            if self._begun:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(_line(asdict(score)))
            else:
                # What is there may be of another question, or end in the middle of a line.
                lines = [
                    _line({"fingerprint": self._print}),
                    *(_line(asdict(one)) for one in self.found.values()),
                ]
                write_text(self._path, "".join(lines))
                self._begun = True
        except OSError as error:
            raise BqcError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _read(self) -> Iterator[Score]:
        if self._path is None or not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        with suppress(ValueError, TypeError):  # the last line of a killed process may be cut short
            if json.loads(lines[0]) != {"fingerprint": self._print}:
                return
            for line in lines[1:]:
                yield Score(**json.loads(line))


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"

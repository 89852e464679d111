"""Rows with named columns from CSV, TSV and JSON Lines files, and what is said of those that do not fit."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from bqc.errors import BqcError

__all__ = ["FORMATS", "Row", "column_error", "find_file", "nearest", "open_text", "read_rows", "read_tsv"]

FORMATS = (".csv", ".tsv", ".jsonl")

Row = dict[str, Any]
"""Column name -> value: text in CSV and TSV, any JSON value in JSON Lines."""

LONGEST_FIELD = 1 << 28


def read_rows(file: Path) -> Iterator[tuple[int, Row]]:
    """(line, row) of each row of a file with a header (.csv, .tsv) or of JSON objects (.jsonl).

    Raises:
        BqcError: another kind of file, not UTF-8, or a line that is no row.
    """
    readers = {".csv": _read_csv, ".tsv": _read_headed_tsv, ".jsonl": _read_jsonl}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise BqcError(f"{file}: not a kind of file that is read here; there are {', '.join(FORMATS)}")
    return reader(file)


def read_tsv(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a tab-separated file, without quote processing: GLUE's hold lone quote characters."""
    return _parsed(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def open_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        BqcError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BqcError(
            f"{file}:{line}: not UTF-8 (byte {error.object[error.start]:#04x}); convert it, as with "
            "iconv -f LATIN1 -t UTF-8"
        ) from None
    except OSError as error:
        raise BqcError(f"{file}: cannot be read: {error.strerror}") from error


def find_file(root: Path, folders: Sequence[str], names: Sequence[str], title: str) -> Path:
    """The first of ``names`` there is in ``root/<folder>``, for the first folder that has one.

    Raises:
        BqcError: none is there.
    """
    if not root.is_dir():
        raise BqcError(f"data folder {root}: {'is a file' if root.exists() else 'no such folder'}")
    paths = (root / folder / name for folder in folders for name in names)
    file = next((path for path in paths if path.is_file()), None)
    if file is None:
        wanted = Path(folders[0]) / " or ".join(names)
        raise BqcError(f"{title} needs {wanted} under {root}, which is not there")
    return file


def column_error(where: object, column: str, columns: Collection[str]) -> BqcError:
    """The error for a column that is not there; names the nearest and all there are."""
    return BqcError(f"{where}: no column '{column}'{nearest(column, columns)}")


def nearest(name: str, known: Collection[str]) -> str:
    """``: did you mean X? there are X, Y, Z``, to end an error with."""
    near = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1)
    hint = next((f"did you mean {item}? " for item in known if near and item.lower() == near[0]), "")
    return f": {hint}there are {', '.join(known) or 'none'}"


def _read_csv(file: Path) -> Iterator[tuple[int, Row]]:
    return _headed(file, _parsed(file, strict=True))


def _read_headed_tsv(file: Path) -> Iterator[tuple[int, Row]]:
    return _headed(file, read_tsv(file))


def _read_jsonl(file: Path) -> Iterator[tuple[int, Row]]:
    # Only \n ends a line: JSON texts may hold the other characters that str.splitlines takes for one.
    for number, line in enumerate(open_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BqcError(f"{file}:{number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise BqcError(f"{file}:{number}: not a JSON object with a column a key")
        yield number, row


def _parsed(file: Path, **dialect: Any) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(_lines(open_text(file)), **dialect)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise BqcError(f"{file}:{reader.line_num}: not a row ({error})") from None


def _lines(text: str) -> Iterator[str]:
    # io.StringIO would copy the text; str.splitlines would break lines at characters that end none.
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def _headed(file: Path, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Row]]:
    _, header = next(rows, (0, []))
    for line, fields in rows:
        if len(fields) < len(header):
            raise BqcError(f"{file}:{line}: {len(fields)} fields where the header has {len(header)}")
        yield line, dict(zip(header, fields, strict=False))

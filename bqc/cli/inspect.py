"""``bqc inspect``: what is in a model file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bqc.cli.common import FILE, Settings, Shape, common_options, emit_json, examples, say, table

__all__ = ["command"]


@click.command(
    "inspect", epilog=examples("bqc inspect model.onnx", "bqc inspect model.bqc.onnx --shape 8x64 --json")
)
@click.argument("model", type=FILE, metavar="MODEL")
@click.option(
    "--shape", type=Shape(), default="1x128", show_default=True, metavar="BxS", help="Run to count MACs of."
)
@common_options
def command(settings: Settings, model: Path, shape: tuple[int, int]) -> None:
    """Show a model's anatomy, parameters and MACs by role and layer, bit widths, and bytes."""
    from bqc.inspect import inspect

    report = inspect(model, batch=shape[0], sequence=shape[1])
    if settings.json:
        emit_json(report.pop("schema_version"), report)
    elif not settings.quiet:
        _show(settings, report)


def _show(settings: Settings, report: Mapping[str, Any]) -> None:
    """Every entry of the report: a list of rows as a table, a mapping as two columns, the rest as lines."""
    for key, value in report.items():
        title = _words(key)
        if key == "schema_version" or value in (None, {}, []):
            continue
        if isinstance(value, Mapping):
            inner = {name: item for name, item in value.items() if not _nested(item)}
            if inner:
                table(title, ("", ""), [(_words(name), _cell(item)) for name, item in inner.items()])
            _show(settings, {f"{key} {name}": item for name, item in value.items() if _nested(item)})
        elif isinstance(value, list) and isinstance(value[0], Mapping):
            columns = list(value[0])
            heads = [(">" if _is_number(value[0][name]) else "") + _words(name) for name in columns]
            table(title, heads, [[_cell(row.get(name)) for name in columns] for row in value])
        else:
            say(settings, f"{title}: {_cell(value)}")


def _nested(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)

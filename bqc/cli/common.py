"""What every verb has: common options, and how results are printed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "FILE",
    "Names",
    "Settings",
    "Shape",
    "check_mark",
    "common_options",
    "emit_json",
    "examples",
    "progress_bar",
    "say",
    "seed_option",
    "table",
    "threads_option",
]


FILE = click.Path(path_type=Path)
"""A path argument. Whether the file exists is for the verb's own reader to say, in its own words."""


@dataclass
class Settings:
    """What the common options ask for; kept on the click context.

    Attributes:
        json: print one JSON object on stdout instead of text.
        quiet: print nothing but errors (and the JSON, if asked for).
        verbose: number of ``-v``.
    """

    json: bool = False
    quiet: bool = False
    verbose: int = 0


_MOST_TOKENS = 2**24
"""Of a shape: what fits memory, as activations are some kilobytes a token."""


class Shape(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """An option ``BxS``: batch and sequence length in tokens."""

    name = "shape"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"'{value}' is not batch x sequence, both at least 1, as in 8x64", param, ctx)
        batch, sequence = int(parts[0]), int(parts[1])
        if batch * sequence > _MOST_TOKENS:
            self.fail(f"'{value}' has more than {_MOST_TOKENS} tokens", param, ctx)
        return batch, sequence


class Names(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """An option of names with commas between them, each one of ``choices`` if there are any."""

    name = "names"

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        for name in names:
            if self.choices and name not in self.choices:
                self.fail(f"'{name}' is none of {', '.join(self.choices)}", param, ctx)
        return names


def _store(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if parameter.name is not None:
        setattr(ctx.ensure_object(Settings), parameter.name, value)
    if parameter.name == "verbose" and value:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("bqc").setLevel(logging.DEBUG if value > 1 else logging.INFO)


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``, ``-q`` and ``-v`` for a verb, which receives them as its first argument, a ``Settings``."""
    for option in (
        # Eager, so that an error in another option is already reported the way the user asked for.
        click.option(
            "-v",
            "--verbose",
            count=True,
            expose_value=False,
            is_eager=True,
            callback=_store,
            help="Say more; -vv: all.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_store,
            help="Errors only.",
        ),
        click.option(
            "--json",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_store,
            help="One JSON object on stdout.",
        ),
    ):
        function = option(function)
    return click.make_pass_decorator(Settings, ensure=True)(function)


seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of everything random."
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime. [default: its own choice]"
)


def examples(*lines: str) -> str:
    """The ``epilog`` of a verb's help: commands to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def emit_json(schema_version: int, body: dict[str, Any]) -> None:
    """Print ``body`` as one JSON object that begins with its ``schema_version``."""
    click.echo(json.dumps({"schema_version": schema_version, **_finite(body)}, indent=2, default=str))


def say(settings: Settings, message: str, *, err: bool = False) -> None:
    """A line for a person, on stdout; with ``err`` on stderr, as stdout has the result itself."""
    if not (settings.quiet or settings.json):
        click.echo(message, err=err)


def check_mark(ok: bool) -> str:
    """``[✓]`` or ``[x]``; ASCII where the terminal has no better."""
    try:
        "✓".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "[v]" if ok else "[x]"
    return "[✓]" if ok else "[x]"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, err: bool = False) -> None:
    """Print a table, with ``err`` on stderr; a column named with a leading ``>`` is set flush right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = Table(box=box.SIMPLE_HEAD if any(columns) else None, pad_edge=False, show_header=any(columns))
    for column in columns:
        view.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=column.startswith(">"),
            overflow="fold",
        )
    for row in rows:
        view.add_row(*(Text(str(cell)) for cell in row))
    console = _console(err)
    console.print(Text(title, style="bold"))
    console.print(view)


@contextmanager
def progress_bar(settings: Settings, label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A callback (done, total) that draws a bar on stderr; None unless a person is watching a terminal."""
    if settings.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _finite(value: Any) -> Any:
    """The same JSON value with null for NaN and infinity, which JSON cannot say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _console(err: bool) -> Console:
    from rich.console import Console

    # A pipe has no width: tables are not to be squeezed into rich's default of 80.
    wide = None if (sys.stderr if err else sys.stdout).isatty() else 140
    return Console(width=wide, stderr=err, highlight=False, emoji=False)

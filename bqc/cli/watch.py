"""Options of the verbs that run passes: what to watch, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from bqc.cli.common import FILE, Settings, table

if TYPE_CHECKING:
    from bqc.pipeline import Change, Changes, Instrument, Step

__all__ = ["Watch", "watch_options"]

_OPTIONS = (
    click.option(
        "--dump-dir", type=FILE, metavar="DIR", help="Write the model after every pass that changed it."
    ),
    click.option("--timing", is_flag=True, help="Show the seconds of each pass."),
    click.option("--stats", is_flag=True, help="Show each pass's rewrites, nodes, bytes and operators."),
    click.option(
        "--verify-each", is_flag=True, help="Check the model and what it computes after every pass."
    ),
    click.option(
        "--verify-inputs", type=FILE, metavar="FILE.npz", help="Inputs of --verify-each. [default: generated]"
    ),
    click.option(
        "--repro-dir",
        type=FILE,
        metavar="DIR",
        help="Where --verify-each leaves what it found. [default: bqc-repro-PASS]",
    ),
)


def watch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--dump-dir``, ``--timing``, ``--stats`` and ``--verify-each`` with its own, for `Watch.of`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class Watch:
    """The instruments that were asked for, and their report."""

    instruments: list[Instrument]
    changes: Changes
    timing: bool
    stats: bool

    @classmethod
    def of(cls, options: dict[str, Any]) -> Watch:
        """From a verb's options, which are taken out of the dictionary."""
        from bqc.pipeline import Changes, DumpFolder

        changes = Changes()
        chosen: list[Instrument] = [changes]
        dump, verify = options.pop("dump_dir"), options.pop("verify_each")
        inputs, reproducers = options.pop("verify_inputs"), options.pop("repro_dir")
        if dump is not None:
            chosen.append(DumpFolder(dump))
        if verify:
            from bqc.pipeline.verifying import VerifyEach

            chosen.append(VerifyEach(inputs=inputs, reproducers=reproducers))
        elif inputs is not None or reproducers is not None:
            raise click.UsageError("--verify-inputs and --repro-dir go with --verify-each")
        return cls(chosen, changes, options.pop("timing"), options.pop("stats"))

    def rows(self) -> list[dict[str, Any]]:
        """Every pass, for JSON."""
        return [
            {
                "pass": step.name,
                "within": list(step.within),
                "modified": step.modified,
                "seconds": step.seconds,
                "rewrites": step.rewrites,
                "nodes_before": row.nodes[0],
                "nodes": row.nodes[1],
                "bytes_before": row.bytes[0],
                "bytes": row.bytes[1],
                "changes": row.operators,
            }
            for row in self.changes.rows
            if (step := row.step) is not None
        ]

    def show(self, settings: Settings, *, err: bool = False) -> None:
        """Print the tables that were asked for, with ``err`` on stderr.

        Parts of a pass that found nothing to do are shown only with ``-v``.
        """
        done = [(row, row.step) for row in self.changes.rows if row.step is not None]
        shown = [(row, step) for row, step in done if settings.verbose or step.modified or not step.within]
        if self.timing:
            table(
                "timing",
                ("pass", ">seconds"),
                [(_indented(step), f"{step.seconds:.3f}") for _, step in shown],
                err=err,
            )
        if self.stats:
            columns = ("pass", ">rewrites", ">nodes", ">after", ">bytes", ">after", "operators")
            table("stats", columns, [_cells(row, step) for row, step in shown], err=err)


def _indented(step: Step) -> str:
    return "  " * len(step.within) + step.name


def _cells(row: Change, step: Step) -> tuple[object, ...]:
    sizes = (*row.nodes, *(f"{size:,}" for size in row.bytes))
    return (_indented(step), step.rewrites, *sizes, row.operators)

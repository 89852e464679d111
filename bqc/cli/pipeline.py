"""Options of the verbs that take a pipeline and a check."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bqc.pipeline.checks import Command

__all__ = ["chosen_pipeline", "command_check", "pipeline_options", "timeout_option"]

_OPTIONS = (
    click.option("-p", "--passes", metavar="PIPELINE", help="Passes: NAME{OPTION=VALUE ...},NAME,..."),
    click.option("--scheme", metavar="NAME", help="The pipeline of a scheme, import included."),
    click.option("--until", metavar="PASS", help="Stop the pipeline after this pass."),
)

timeout_option = click.option(
    "--check-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="A check that takes longer counts as failed. [default: wait]",
)


def pipeline_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--passes``, ``--scheme`` and ``--until``, for `chosen_pipeline`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def chosen_pipeline(options: dict[str, Any]) -> list[Any] | None:
    """The passes that a verb's options ask for; None if they ask for none."""
    from bqc.opt import scheme_pipeline, until
    from bqc.pipeline import parse

    if options["passes"] is not None and options["scheme"] is not None:
        raise click.UsageError("give either --passes or --scheme")
    if options["passes"] is None and options["scheme"] is None:
        if options["until"] is not None:
            raise click.UsageError("--until goes with --passes or --scheme")
        return None
    passes = scheme_pipeline(options["scheme"]) if options["passes"] is None else parse(options["passes"])
    return until(passes, options["until"]) if options["until"] else passes


def command_check(options: dict[str, Any]) -> Command | None:
    """The command of ``--check`` with its ``--check-timeout``; None if there is none."""
    if options["check"] is None:
        if options["check_timeout"] is not None:
            raise click.UsageError("--check-timeout goes with --check")
        return None
    from bqc.pipeline.checks import Command

    return Command(options["check"], options["check_timeout"])

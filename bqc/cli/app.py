"""The ``bqc`` command group, and the one place where exceptions become messages and exit codes."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial

import click

from bqc.cli.common import Settings, examples
from bqc.errors import BqcError, Finding

__all__ = ["VERBS", "main"]

VERBS = {
    "compile": "Compile a float model to a small, fast one.",
    "export": "Write a Hugging Face model as ONNX.",
    "inspect": "Show a model's anatomy, cost, bit widths and bytes.",
    "diff": "Tell what differs between two models.",
    "verify": "Compare a compiled model with its original.",
    "eval": "Measure a model's accuracy on a task.",
    "sensitivity": "Rank a model's parts by what quantising them costs.",
    "train": "Train a model for a task, quantisation in the loop.",
    "bench": "Compare the speed and memory of models.",
    "opt": "Run passes by name, and watch them.",
    "bisect": "Find the rewrite that makes a model fail a check.",
    "reduce": "Make a model small that shows a failure.",
    "doctor": "Check this machine: CPU, ONNX Runtime, kernels.",
}
"""Verb -> its line in ``bqc --help``. The verb is the object ``command`` of the module ``bqc.cli.<verb>``."""

_FOUND, _FAILED, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 130, 141


class _Verbs(click.Group):
    """Verbs by name, imported only when called; ``--help`` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"bqc.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"verbs are {', '.join(VERBS)}"
            raise click.UsageError(f"no verb '{args[0]}': {hint}", ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        # importlib.metadata is slow to import, and most calls do not ask.
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"bqc {version('bqc')}")
        except PackageNotFoundError:
            click.echo("bqc (not installed)")
        ctx.exit()


@click.group(
    cls=_Verbs,
    subcommand_metavar="VERB [OPTIONS] ...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("bqc compile model.onnx --scheme bbct", "bqc verify model.bqc.onnx --against model.onnx"),
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def _group() -> None:
    """Compile BERT-family encoders to small, fast, plain ONNX for ordinary CPUs.

    Exit status: 0 done, 1 a check did not hold, 2 it could not be done.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done. 1: done, and a check the user asked for did not hold. 2: it could not be done; one line on stderr
    says why, with a traceback only for an unforeseen error under ``-vv``. 130: interrupted.
    """
    settings = Settings()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, settings)
            status = _group.main(args, prog_name="bqc", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return int(status or 0)
    except click.exceptions.Abort:
        return _INTERRUPTED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except click.ClickException as error:
        _complain(error.format_message(), usage=error.ctx if isinstance(error, click.UsageError) else None)
    except Finding as finding:
        _complain(str(finding))
        return _FOUND
    except BqcError as error:
        _complain(str(error))
    except BrokenPipeError:
        # The reader went away. Python flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        if settings.verbose >= 2:
            traceback.print_exc()
        hint = "" if settings.verbose >= 2 else " (run with -vv for the traceback)"
        _complain(f"unexpected {type(error).__name__}: {error}{hint}")
    return _FAILED


def _complain(message: str, usage: click.Context | None = None) -> None:
    click.echo(f"bqc: error: {' '.join(message.split())}", err=True)
    if usage is not None:
        click.echo(f"see '{usage.command_path} --help'", err=True)


def _show_warning(
    settings: Settings, message: Warning | str, category: type[Warning], *_: object, **__: object
) -> None:
    # Other packages warn about themselves; only our own warnings are about the user's model.
    if settings.verbose or (category.__module__.startswith("bqc.") and not settings.quiet):
        click.echo(f"bqc: warning: {' '.join(str(message).split())}", err=True)

"""The command line: ``bqc VERB``. One file a verb, loaded when it is called."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; see `bqc.cli.app.main`."""
    try:
        # Imported here, so that an interrupt meanwhile ends in a status too.
        from bqc.cli.app import main as run
    except KeyboardInterrupt:
        return 130
    return run(args)

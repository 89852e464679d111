"""The one exception that reaches the user: what is wrong, where, and what to do about it."""

from __future__ import annotations

__all__ = ["BqcError", "Finding"]


class BqcError(Exception):
    """A failure the user can act on.

    The command line prints the message on one line and exits with status 2; no traceback, no output file.
    """


class Finding(BqcError):
    """A check that was asked for did not hold: exit status 1."""

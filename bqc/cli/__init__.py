"""The command line: ``bqc VERB``. One file a verb, loaded when it is called."""

from __future__ import annotations

from bqc.cli.app import main

__all__ = ["main"]

"""Tests of passes as text: `.onnxtxt` files with RUN and CHECK lines, run by lit, written by `bqc-update-checks`.

Running them needs the packages lit and filecheck (``pip install 'bqc[test]'``). docs/write-a-pass.md shows a test.
"""

from __future__ import annotations

from typing import Any

from bqc.testing.run_lines import RunLine, run_lines

__all__ = ["PassTest", "RunLine", "run_lines"]


def __getattr__(name: str) -> Any:
    # Checks are written without lit.
    if name == "PassTest":
        from bqc.testing.lit_format import PassTest

        return PassTest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

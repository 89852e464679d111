"""Tests of passes as text: `.onnxtxt` files with RUN and CHECK lines, run by lit, written by `bqc-update-checks`.

Needs the packages lit and filecheck (``pip install 'bqc[test]'``). docs/write-a-pass.md shows a test.
"""

from __future__ import annotations

from bqc.testing.lit_format import PassTest
from bqc.testing.run_lines import RunLine, run_lines

__all__ = ["PassTest", "RunLine", "run_lines"]

"""Tests of passes, a folder each: ``lit tests/passes``. docs/write-a-pass.md shows how to write one."""

from pathlib import Path

from bqc.testing import PassTest

config.name = "passes"  # noqa: F821  # lit defines it
config.suffixes = [".onnxtxt"]  # noqa: F821
config.test_format = PassTest()  # noqa: F821
config.test_source_root = str(Path(__file__).parent)  # noqa: F821

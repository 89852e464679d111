"""The lit test format of `.onnxtxt` files."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lit.formats
import lit.Test

from bqc.errors import BqcError
from bqc.pipeline import watching
from bqc.pipeline.verifying import VerifyEach
from bqc.testing.run_lines import run_lines

__all__ = ["PassTest"]


class PassTest(lit.formats.FileBasedTest):  # type: ignore[misc]
    """A file passes if every RUN line of it does; see `bqc.testing.run_lines`. For ``config.test_format``.

    Every pass that a line runs is verified as by ``--verify-each``.
    """

    def execute(self, test: Any, lit_config: Any) -> tuple[Any, str]:
        """Run one file; lit calls this in its worker processes."""
        try:
            with TemporaryDirectory() as folder, watching([VerifyEach(reproducers=Path(folder))]):
                lines = run_lines(Path(test.getSourcePath()))
                problems = [problem for line in lines if (problem := line.check())]
        except BqcError as error:
            problems = [str(error)]
        return (lit.Test.FAIL if problems else lit.Test.PASS), "\n".join(problems)

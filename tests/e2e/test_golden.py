"""Artifacts of every released format version load and give the bits they gave then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bqc
from bqc.ir.load import is_compiled, load

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.onnx"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
@pytest.mark.parametrize("library", [True, False])
def test_golden_artifacts(path: Path, library: bool) -> None:
    stored = dict(np.load(path.with_suffix(".npz")))
    logits = stored.pop("logits")
    session = bqc.session(path, strict=library, library=library)
    assert session.run(None, stored)[0].tobytes() == logits.tobytes()
    assert is_compiled(load(path))


def test_there_is_one_for_this_format_version_of_each_scheme() -> None:
    from bqc.artifact import FORMAT_VERSION

    known = {path.stem for path in GOLDEN}
    assert {f"{scheme}-{FORMAT_VERSION}" for scheme in ("bbct", "binarybert")} <= known

"""Is one float model supported: the check behind every cell of the support matrix."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

import bqc
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.inputs import INPUTS_KEY, InputSpecs
from bqc.ir.skeleton import one_line
from bqc.runtime.feeds import random_batches
from bqc.runtime.inputs import Batch, EncoderInputs
from bqc.verify import verify
from tests.support.exports import largest_difference, outputs_of, session
from tests.support.families import VOCABULARY

__all__ = ["Result", "check", "line", "silent"]

TOLERANCE = 1e-5
HALF_TOLERANCE = 2e-2
"""What float16 arithmetic rounds away in the tiny models; their canonical form is computed in float32."""

Result = tuple[str, str]
"""`supported`, `refused`, `untested` or `wrong`, and what there is to say about it."""


def check(path: Path) -> Result:
    """Import, compare, compile and verify the model."""
    try:
        session(path)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        return "untested", f"ONNX Runtime cannot load the file: {line(error)}"
    try:
        with silent(), tempfile.TemporaryDirectory() as folder:
            model, summary = import_model(path)
            broken = _cannot_run(path, model)
            if broken:
                return "untested", f"ONNX Runtime cannot run the file: {broken}"
            padding = not any("outputs at padding" in note for note in summary.notes)
            gap = largest_difference(path, model, padding=padding)
            half = any("half precision" in note for note in summary.notes)
            if not gap < (HALF_TOLERANCE if half else TOLERANCE):
                return "wrong", f"the canonical form differs by {gap:.2g}"
            result = bqc.compile(path, output=Path(folder) / "model.bqc.onnx", block=16)
            report = verify(result.paths[0], path, inputs=_inputs(result.paths[0], padding), bits=True)
            left = dict(result.summary).get("float", "")
    except BqcError as error:
        return "refused", line(error).split("; ")[0]
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {line(error)}"
    failed = [one.text for one in report.checks if not one.ok]
    if failed:
        return "wrong", "; ".join(failed)
    return "supported", left


def _cannot_run(path: Path, imported: ir.Model) -> str | None:
    """What ONNX Runtime says of a file that it loads and cannot run."""
    specs = InputSpecs.of_json(imported.metadata_props[INPUTS_KEY])
    try:
        list(outputs_of(session(path), specs))
    except BqcError:
        raise
    except Exception as error:
        return line(error)
    return None


def _inputs(compiled: Path, padding: bool) -> Path:
    """Ragged rows, padded left and right, in a file beside the model.

    Without `padding`, what is computed at padding is not compared, and the first token, which heads read, is none.
    """
    inputs = EncoderInputs.of(bqc.session(compiled))
    count = 32 * (inputs.batch or 2)
    (batch,) = random_batches(VOCABULARY, inputs.types, count, count, inputs.sequence or 24, 0)
    if not padding and not inputs.batch:
        batch = Batch(*(part[batch.mask[:, 0] == 1] for part in (batch.ids, batch.mask, batch.types)))
    file = compiled.with_name("inputs.npz")
    np.savez(file, **inputs.feeds(batch))
    return file


def line(error: Exception) -> str:
    """An error in one line, without the folder that a file lay in."""
    return re.sub(r"/\S*/", "", one_line(error))[:160]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """No warnings, nothing on the streams of Python."""
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        yield

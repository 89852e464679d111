"""Running a model so that values inside it can be seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from bqc.diff.view import View
from bqc.errors import BqcError
from bqc.runtime.feeds import Feeds
from bqc.runtime.session import session

__all__ = ["exposed", "fetch"]


@contextmanager
def exposed(
    view: View, values: Sequence[ir.Value], threads: int | None = None
) -> Iterator[tuple[onnxruntime.InferenceSession, Path]]:
    """A session on a copy of the model that gives ``values`` as outputs too, and the copy's path.

    Raises:
        BqcError: ONNX Runtime cannot load it, or there is no room for the copy.
    """
    outputs = view.model.graph.outputs
    own = list(outputs)
    with TemporaryDirectory(prefix="bqc-diff-") as folder:
        path = Path(folder) / "model.onnx"
        outputs.extend(value for value in dict.fromkeys(values) if value not in own)
        try:
            ir.save(view.model, path, external_data="model.onnx.data")
        except OSError as error:
            raise BqcError(f"{folder}: cannot write a copy to run: {error.strerror or error}") from None
        finally:
            del outputs[len(own) :]
        yield session(path, threads=threads), path


def fetch(
    running: onnxruntime.InferenceSession, names: Sequence[str], feeds: Feeds
) -> dict[str, NDArray[Any]]:
    """The named outputs of a run.

    Raises:
        BqcError: ONNX Runtime fails.
    """
    try:
        return {n: np.asarray(v) for n, v in zip(names, running.run(list(names), feeds), strict=True)}
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        raise BqcError(f"ONNX Runtime cannot run the model: {error}") from error

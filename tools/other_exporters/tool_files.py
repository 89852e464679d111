"""Files that ONNX tools write from torch exports: run by an environment with torch, transformers, onnxscript,
onnxruntime, onnxsim, onnxslim, onnxoptimizer and onnxconverter-common.

    TOOLS_VENV/bin/python -m tools.other_exporters.tool_files FILES
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.families import Cell, exported
from tools.other_exporters.folder import Folder

FAMILIES = ("bert", "distilbert", "roberta", "electra", "mpnet", "albert")
HEADS = ("classification", "bare")


def main() -> None:
    """Run every tool on the files of both torch exporters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = Folder(
        parser.parse_args().folder,
        *("onnxsim", "onnxslim", "onnxoptimizer", "onnxconverter-common", "onnxscript", "onnxruntime"),
        *("torch", "transformers"),
    )
    for tool, run in TOOLS.items():
        for source in ("torchscript", "dynamo"):
            for family in FAMILIES:
                for head in HEADS:
                    folder.add(f"{tool}-{source}", family, head, partial(_export, source, run))


def _export(source: str, run: Callable[[Path], Path], family: str, head: str) -> Path:
    path = exported(source, Cell(family, head))
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    return run(Path(shutil.copy(path, folder / path.name)))


def _simplified(path: Path) -> Path:
    import onnx
    import onnxsim

    model, ok = onnxsim.simplify(onnx.load(path))
    assert ok, "onnxsim says that its result is not valid"
    return _saved(model, path)


def _slimmed(path: Path) -> Path:
    import onnxslim

    return _saved(onnxslim.slim(str(path)), path)


def _passes_of_onnxoptimizer(path: Path) -> Path:
    import onnx
    import onnxoptimizer

    return _saved(onnxoptimizer.optimize(onnx.load(path)), path)


def _onnxscript_optimized(path: Path) -> Path:
    import onnx
    import onnxscript

    return _saved(onnxscript.optimizer.optimize(onnx.load(path)), path)


def _onnxscript_for_ort(path: Path) -> Path:
    import onnx_ir as ir
    from onnxscript.rewriter import ort_fusions

    model = ir.load(path)
    result = ort_fusions.optimize_for_ort(model)
    ir.save(result[0] if isinstance(result, tuple) else result, path)
    return path


def _half(path: Path, keep: bool) -> Path:
    import onnx
    from onnxconverter_common import float16

    return _saved(float16.convert_float_to_float16(onnx.load(path), keep_io_types=keep), path)


def _mixed(path: Path) -> Path:
    import numpy as np
    import onnx
    from onnxconverter_common import auto_mixed_precision

    model = onnx.load(path)
    feeds = {value.name: np.ones((2, 7), np.int64) for value in model.graph.input}
    convert = auto_mixed_precision.auto_convert_mixed_precision
    return _saved(convert(model, feeds, rtol=0.01, atol=0.01, keep_io_types=True), path)


def _preprocessed(path: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = path.with_suffix(".pre.onnx")
    quant_pre_process(str(path), str(target))
    return target


def _optimizer(path: Path, level: int, heads: int, half: bool = False) -> Path:
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    made = optimizer.optimize_model(
        str(path), "bert", heads, 48 if heads else 0, opt_level=level, use_gpu=False
    )
    if half:
        made.convert_float_to_float16(keep_io_types=True)
    target = path.with_suffix(".opt.onnx")
    made.save_model_to_file(str(target))
    return target


def _saved(model: Any, path: Path) -> Path:
    import onnx

    onnx.save(model, path)
    return path


TOOLS: dict[str, Callable[[Path], Path]] = {
    "onnxsim": _simplified,
    "onnxslim": _slimmed,
    "onnxoptimizer": _passes_of_onnxoptimizer,
    "onnxscript-optimizer": _onnxscript_optimized,
    "onnxscript-ort-fusions": _onnxscript_for_ort,
    "onnxconverter-fp16": partial(_half, keep=False),
    "onnxconverter-fp16-io32": partial(_half, keep=True),
    "onnxconverter-mixed": _mixed,
    "ort-quant-pre-process": _preprocessed,
    "ort-optimizer-guessed-0": partial(_optimizer, level=0, heads=0),
    "ort-optimizer-guessed-99": partial(_optimizer, level=99, heads=0),
    "ort-optimizer-fp16": partial(_optimizer, level=1, heads=4, half=True),
}


if __name__ == "__main__":
    main()

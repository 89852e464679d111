"""ONNX Runtime's own ways to run a float model fast, as files to compare with."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bqc.errors import BqcError
from bqc.ir.anatomy import Encoder

__all__ = ["BASELINES", "Baseline", "make_baseline"]

_ATTENTION = ("Attention", "MultiHeadAttention")


@dataclass(frozen=True)
class Baseline:
    """A file made from the float model.

    Attributes:
        path: the file.
        operators: operator -> nodes, of ONNX Runtime's own domain: what fusion and quantisation found.
        warning: why the baseline is weaker than it could be, if it is.
    """

    path: Path
    operators: dict[str, int]
    warning: str | None = None


def make_baseline(name: str, model: Path, encoder: Encoder, folder: Path) -> Baseline:
    """Write the baseline ``name``, one of ``BASELINES``, into ``folder``.

    Args:
        name: the baseline.
        model: the float file.
        encoder: its anatomy; the fusion of attention has to be told the heads.
        folder: a folder without files of that name.

    Raises:
        BqcError: ONNX Runtime cannot make it; the message says why.
    """
    path = folder / f"{name}.onnx"
    try:
        with _silence():
            BASELINES[name](model, encoder, path)
    except Exception as error:  # whatever ONNX Runtime's Python tools stumble over
        reason = str(error) or type(error).__name__
        raise BqcError(f"{model}: baseline {name} cannot be made: {reason}") from error
    operators = _operators(path)
    warning = None
    if not any(kind in operators for kind in (*_ATTENTION, "QAttention")):
        warning = (
            f"{name}: ONNX Runtime's optimizer fused no attention of {model}, so this baseline is slower than it could"
            " be; it knows the graphs of torch's TorchScript exporter best"
        )
    return Baseline(path, operators, warning)


def _fp32(model: Path, encoder: Encoder, path: Path) -> None:
    _fuse(model, encoder, path.parent, separate=False).save_model_to_file(
        str(path), use_external_data_format=True
    )


def _int8(model: Path, encoder: Encoder, path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    fused = path.with_name(f"{path.stem}-fused.onnx")
    _fp32(model, encoder, fused)
    quantize_dynamic(
        str(fused),
        str(path),
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _nbits4(model: Path, encoder: Encoder, path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # Only MatMul is quantised, so query, key and value must not disappear inside Attention.
    fused = _fuse(model, encoder, path.parent, separate=True).model
    quantizer = MatMulNBitsQuantizer(fused, bits=4, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    quantizer.model.clean_initializers()  # the float weights
    quantizer.model.save_model_to_file(str(path), use_external_data_format=True)


BASELINES: dict[str, Callable[[Path, Encoder, Path], None]] = {
    "ort-fp32": _fp32,
    "ort-int8": _int8,
    "ort-nbits4": _nbits4,
}
"""Name -> function that reads a float file and writes the baseline's file.

``ort-fp32`` is the model after ONNX Runtime's transformer fusion; ``ort-int8`` is its ``quantize_dynamic`` with
signed 8-bit weights; ``ort-nbits4`` has MatMulNBits with 4-bit weights in blocks of 32 and int8 activations
(accuracy level 4).
"""


def _fuse(model: Path, encoder: Encoder, folder: Path, separate: bool) -> Any:
    """The fused model; ``separate`` keeps the linears of query, key and value apart from the attention."""
    import onnxruntime
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_multi_head_attention = separate
    # Constants are folded first: weights stored as float16 are found only once their Cast is gone. The optimizer would
    # do this itself at its level 1, for which it wants torch.
    with tempfile.TemporaryDirectory(dir=folder) as place:
        folded = Path(place) / "folded.onnx"
        basic = onnxruntime.SessionOptions()
        basic.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        basic.optimized_model_filepath = str(folded)
        basic.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "folded.onnx.data"
        )
        onnxruntime.InferenceSession(
            str(model), basic, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
        return optimize_model(
            str(folded), "bert", encoder.heads, encoder.hidden, opt_level=0, optimization_options=options
        )


def _operators(path: Path) -> dict[str, int]:
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return dict(Counter(node.op_type for node in nodes if node.domain == "com.microsoft").most_common())


@contextmanager
def _silence() -> Iterator[None]:
    """ONNX Runtime's Python tools advise on stderr, through several loggers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

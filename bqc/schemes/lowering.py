"""The passes that schemes share: from a planned float model to what is trained, and to the finished one."""

from __future__ import annotations

import onnx_ir as ir

from bqc.passes.attach_functions import AttachFunctions
from bqc.passes.binarize_inputs import BinarizeInputs
from bqc.passes.finalize import Finalize
from bqc.passes.fold_attention import FoldAttention
from bqc.passes.fold_embedding import FoldEmbedding
from bqc.passes.fold_float_attention import FoldFloatAttention
from bqc.passes.fold_gelu import FoldGelu
from bqc.passes.fold_head import FoldHead
from bqc.passes.fold_layernorm import FoldLayerNorm
from bqc.passes.fold_matmul import FoldMatMul
from bqc.passes.fold_single import FoldSingle
from bqc.passes.fold_softmax import FoldSoftmax
from bqc.passes.hoist_gather import HoistGather
from bqc.passes.narrow_parameters import NarrowParameters
from bqc.passes.pack_weights import PackWeights
from bqc.passes.quantize_activations import QuantizeActivations
from bqc.passes.quantize_weights import QuantizeWeights

__all__ = ["lowering", "simulation"]


def lowering(cosine_min: float = 0.8) -> list[ir.passes.InPlacePass]:
    """Passes from a planned float model to the finished one; ``cosine_min`` is what quantising promises of outputs."""
    return [
        QuantizeWeights(cosine_min=cosine_min),
        BinarizeInputs(),
        QuantizeActivations(cosine_min=cosine_min),
        PackWeights(),
        FoldEmbedding(),
        FoldMatMul(),
        FoldGelu(),
        FoldLayerNorm(),
        FoldSoftmax(),
        FoldAttention(),
        FoldFloatAttention(),
        FoldHead(),
        FoldSingle(),
        HoistGather(),
        NarrowParameters(cosine_min=cosine_min),
        AttachFunctions(),
        Finalize(),
    ]


def simulation(cosine_min: float = 0.8) -> list[ir.passes.InPlacePass]:
    """Passes from a planned float model to the graph that training runs: its weights are still float."""
    return [BinarizeInputs(), QuantizeActivations(cosine_min=cosine_min, uncalibrated=True)]

"""Import in one pass: any supported export becomes the canonical float form."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from bqc.contract import Contract
from bqc.ir.anatomy import ANATOMY_KEY, LAYER_KEY, ROLE_KEY, SOURCE_KEY
from bqc.ir.inputs import INPUTS_KEY
from bqc.passes.import_attention import ImportAttention
from bqc.passes.import_bias import ImportBias
from bqc.passes.import_branches import ImportBranches
from bqc.passes.import_contrib import ImportContrib
from bqc.passes.import_contrib_attention import ImportContribAttention
from bqc.passes.import_contrib_embedding import ImportContribEmbedding
from bqc.passes.import_contrib_gelu import ImportContribGelu
from bqc.passes.import_contrib_matmul import ImportContribMatMul
from bqc.passes.import_contrib_norm import ImportContribNorm
from bqc.passes.import_einsum import ImportEinsum
from bqc.passes.import_embedding import ImportEmbedding
from bqc.passes.import_flat import ImportFlat
from bqc.passes.import_fold import ImportFold
from bqc.passes.import_functions import ImportFunctions
from bqc.passes.import_gelu import ImportGelu
from bqc.passes.import_gemm import ImportGemm
from bqc.passes.import_head import ImportHead
from bqc.passes.import_heads import ImportHeads
from bqc.passes.import_ids import ImportIds
from bqc.passes.import_later import ImportLater
from bqc.passes.import_layernorm import ImportLayerNorm
from bqc.passes.import_layernorm_probe import ImportLayerNormProbe
from bqc.passes.import_linear import ImportLinear
from bqc.passes.import_lookup import ImportLookup
from bqc.passes.import_mask import ImportMask
from bqc.passes.import_mend import ImportMend
from bqc.passes.import_opset import ImportOpset
from bqc.passes.import_packed import ImportPacked
from bqc.passes.import_padding import ImportPadding
from bqc.passes.import_pool import ImportPool
from bqc.passes.import_positions import ImportPositions
from bqc.passes.import_precision import ImportPrecision
from bqc.passes.import_range import ImportRange
from bqc.passes.import_residual import ImportResidual
from bqc.passes.import_shapes import ImportShapes
from bqc.passes.import_shared import ImportShared
from bqc.passes.import_sums import ImportSums
from bqc.passes.import_types import ImportTypes
from bqc.passes.import_weights import ImportWeights
from bqc.pipeline import run

__all__ = ["IMPORT_PASSES", "ImportCanonicalize"]

IMPORT_PASSES: tuple[type[ir.passes.InPlacePass], ...] = (
    ImportFunctions,
    ImportMend,
    ImportLater,
    ImportOpset,
    ImportPrecision,
    ImportFold,
    ImportBranches,
    ImportSums,
    ImportRange,
    ImportContribEmbedding,
    ImportContribMatMul,
    ImportContribGelu,
    ImportContribNorm,
    ImportContribAttention,
    ImportContrib,
    ImportShared,
    ImportWeights,
    ImportBias,
    ImportPool,
    ImportLayerNorm,
    ImportLayerNormProbe,
    ImportGelu,
    ImportEinsum,
    ImportGemm,
    ImportFlat,
    ImportLinear,
    ImportLookup,
    ImportPositions,
    ImportEmbedding,
    ImportPadding,
    ImportIds,
    ImportMask,
    ImportPacked,
    ImportHeads,
    ImportAttention,
    ImportShapes,
    ImportResidual,
    ImportHead,
    ImportTypes,
)
"""The order matters: embeddings are found under a LayerNormalization, attention between linears."""

_ANATOMY = (LAYER_KEY, ROLE_KEY, SOURCE_KEY)
_EXPORTERS = "pkg."


@dataclass(frozen=True)
class ImportCanonicalize(ir.passes.InPlacePass):
    """Run every import pass in order.

    Before: what an exporter wrote, at any opset
    After: the form of docs/canonical-form.md, without labels (`annotate-anatomy` writes them)
    """

    # A cast that turns out to change nothing once types are inferred goes when the file is imported again.
    contract = Contract("ulp", idempotent=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        forgotten = _forget(model)
        steps = run(model, [one() for one in IMPORT_PASSES])
        common.TopologicalSortPass()(model)
        run(model, [ImportTypes()])
        return ir.passes.PassResult(model, forgotten or any(step.modified for step in steps))


def _forget(model: ir.Model) -> bool:
    """Drop what is written of a graph that will be another: its anatomy, and the notes of its exporter.

    What a model computes is looked at, not what it says of itself. Exporters keep names and paths of their source
    under ``pkg.``, as long as the graph.
    """
    graph = model.graph
    known = [key for key in (ANATOMY_KEY, INPUTS_KEY) if key in model.metadata_props]
    for key in known:
        del model.metadata_props[key]
    dropped = bool(known)
    for item in (
        graph,
        *graph,
        *graph.inputs,
        *graph.initializers.values(),
        *(v for n in graph for v in n.outputs),
    ):
        props = item.metadata_props
        for key in [k for k in props if k in _ANATOMY or k.startswith(_EXPORTERS)]:
            del props[key]
            dropped = True
    return dropped

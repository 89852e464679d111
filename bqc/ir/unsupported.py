"""Encoders that are known and not supported, told by what only they do."""

from __future__ import annotations

import onnx_ir as ir

from bqc.ir.match import as_linear, data_inputs, scalar, walk_back

__all__ = ["unsupported"]

_LIMIT = 200
_QUANTISED = frozenset(
    (
        *(
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "ConvInteger",
            "MatMulIntegerToFloat",
        ),
        *("DynamicQuantizeMatMul", "MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"),
    )
)
_ACTIVATIONS = frozenset(("Gelu", "Erf", "Sigmoid", "Tanh", "Relu", "HardSigmoid", "Mish"))


def unsupported(graph: ir.Graph) -> str | None:
    """What the encoder has that bqc does not support, by the name it is known by, or None.

    Asked only when no whole layer was recognised, so this need not be a proof.
    """
    quantised = next((n.op_type for n in graph if _is_quantised(n)), None)
    if quantised is not None:
        return f"a model that is quantised already ({quantised}; give the float model it was made from)"
    for softmax in [n for n in graph if n.op_type == "Softmax"]:
        behind = _behind(softmax)
        kinds = {node.op_type for node in behind}
        if any(_gathers_products(node) for node in behind):
            return "DeBERTa (disentangled attention)"
        if any(_is_causal(node) for node in behind):
            return "a decoder, whose tokens see only those before them (causal attention, as in GPT-2),"
        if "Neg" in kinds and "Concat" in kinds and "MatMul" in kinds:
            return "rotary position embedding (RoPE, as in ModernBERT and NomicBERT)"
        if "RotaryEmbedding" in kinds:
            return "rotary position embedding (RoPE, as in ModernBERT and NomicBERT)"
        if "Einsum" in kinds:
            return "attention written with Einsum"
    if any(n.op_type == "Conv" for n in graph):
        if all(v.dtype is not None and v.dtype.is_floating_point() for v in graph.inputs):
            return "a network for images or sound (as ViT and CLIP), without token ids,"
        return "an encoder with convolutions (ConvBERT, SqueezeBERT)"
    if any(_is_rms_norm(n) for n in graph):
        return "RMSNorm (as in T5)"
    if not any(n.op_type == "LayerNormalization" for n in graph) and any(
        n.op_type == "Softmax" for n in graph
    ):
        return "an encoder without LayerNormalization (MobileBERT)"
    if any(_is_gated(node) for node in graph):
        return "a gated feed-forward layer (GeGLU, SwiGLU)"
    if any(n.op_type == "Softmax" for n in graph) and _is_prenorm(graph):
        return "normalisation before the attention (pre-norm)"
    return None


def _is_quantised(node: ir.Node) -> bool:
    """Is it one of the operators that quantisers of ONNX Runtime and others write?"""
    name = node.op_type
    return name in _QUANTISED or name.startswith(("QLinear", "QAttention", "QEmbed", "QGemm"))


def _gathers_products(node: ir.Node) -> bool:
    """Does it pick scores by relative position?"""
    return node.op_type in ("GatherElements", "GatherND") and any(
        n.op_type == "MatMul" for n in _behind(node)
    )


def _is_causal(node: ir.Node) -> bool:
    """Does it compare places with places, and nothing that depends on values of the inputs?"""
    if node.op_type == "Trilu":
        return True
    if node.op_type not in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        return False
    numbers = any(scalar(v) is not None for v in node.inputs)
    return not numbers and not walk_back(node.outputs[0], ir.Value.is_graph_input)


def _is_rms_norm(node: ir.Node) -> bool:
    """Is it the norm, or the root of the mean of a square of what no mean was subtracted from?"""
    if node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization"):
        return True
    found = node.op_type == "Sqrt"
    for kinds in (("Add",), ("ReduceMean",), ("Pow", "Mul")):
        behind = next((p for v in node.inputs if v is not None and (p := v.producer()) is not None), None)
        if not found or behind is None or behind.op_type not in kinds:
            return False
        node = behind
    value = node.inputs[0]
    return value is not None and ((p := value.producer()) is None or p.op_type != "Sub")


def _behind(node: ir.Node) -> list[ir.Node]:
    """What computes the first input, back to the linears."""
    found: list[ir.Node] = []
    queue = [v for v in node.inputs[:1] if v is not None]
    while queue and len(found) < _LIMIT:
        value = queue.pop(0)
        producer = value.producer()
        if producer is None or producer in found or as_linear(value) is not None:
            continue
        found.append(producer)
        queue.extend(data_inputs(producer))
    return found


def _is_gated(node: ir.Node) -> bool:
    """Mul(activation(f), g) of two parts that are linears: not the x * sigmoid(a x) of an activation itself."""
    if node.op_type != "Mul":
        return False
    first, second = node.inputs
    return any(_gates(one, other) for one, other in ((first, second), (second, first)))


def _gates(activated: ir.Value | None, gate: ir.Value | None) -> bool:
    one = activated.producer() if activated is not None else None
    other = gate.producer() if gate is not None else None
    if one is None or other is None or one.op_type not in _ACTIVATIONS or one.inputs[0] is None:
        return False
    is_part = other.op_type in ("Split", "Slice") or as_linear(gate) is not None
    return is_part and not walk_back(one.inputs[0], lambda v: v is gate)


def _is_prenorm(graph: ir.Graph) -> bool:
    """Is a residual sum read by a LayerNormalization and by another residual sum?"""
    for node in graph:
        if node.op_type != "Add" or as_linear(node.outputs[0]) is not None:
            continue
        readers = {use.op_type for use in node.outputs[0].consumers()}
        linears = [as_linear(v) for v in node.inputs]
        if {"LayerNormalization", "Add"} <= readers and any(linears):
            return True
    return False

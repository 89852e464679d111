"""Operators of opsets after 21 become those of opset 21."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.build import Writer, dims
from bqc.ir.explain import explanation, node_name
from bqc.ir.inference import infer_shapes
from bqc.ir.skeleton import check_valid, skeleton
from bqc.ir.unsupported import unsupported
from bqc.passes._contrib import apply, fed, refuse_unless

__all__ = ["ImportLater"]

_RULE = "later-attention"
_CACHES = (4, 5, 6)
_FLOAT8_SCALES = "round_mode"


@dataclass(frozen=True)
class ImportLater(ir.passes.InPlacePass):
    """Say in opset 21 what a later opset says.

    Before: opset 23, `Attention(q, k, v, mask; scale)`, `QuantizeLinear(x, s; precision=0)`
    After: opset 21, `MatMul(Softmax(Add(Mul(MatMul(q, k^T), scale), bias)), v)`, `QuantizeLinear(x, s)`

    Opsets 22 to 28 changed no operator's meaning: they allow more types, brought attributes whose defaults are what
    opset 21 does, and new operators. Of these Attention is written out.

    Raises:
        BqcError: an opset that the installed onnx does not know, invalid ONNX, or an operator or attribute that
            opset 21 has no form for.
    """

    contract = Contract("ulp")

    opset: int = 21
    """Of the standard operators."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        source = graph.opset_imports.get("", 1)
        if source <= self.opset:
            return ir.passes.PassResult(model, False)
        newest = onnx.defs.onnx_opset_version()
        if source > newest:
            raise BqcError(
                f"the model is opset {source}; the installed onnx {onnx.__version__} knows opset 1 to {newest}: "
                f"install a later onnx, or export again with a lower opset"
            )
        check_valid(skeleton(model)[0])
        attentions = [node for node in graph if node.op_type == "Attention" and not node.domain]
        if any(dims(value) is None or value.dtype is None for node in attentions for value in _read(node)):
            infer_shapes(model)
        apply(model, _RULE, {"Attention": _attention}, domain="")
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if node.domain == "":
                self._lower(model, node, source)
        graph.opset_imports[""] = self.opset
        return ir.passes.PassResult(model, True)

    def _lower(self, model: ir.Model, node: ir.Node, source: int) -> None:
        """Drop the attributes that say what opset 21 does anyway."""
        new = onnx.defs.get_schema(node.op_type, source)
        try:
            old = onnx.defs.get_schema(node.op_type, self.opset)
        except onnx.defs.SchemaError:
            known = unsupported(model.graph)
            if known is not None:
                raise BqcError(f"{known} is not supported ({node_name(node)})") from None
            misses = (miss for miss in explanation(model).misses if miss.node == node_name(node))
            why = "".join(f": {miss.predicate}" for miss in misses)
            raise BqcError(
                f"{node_name(node)} of opset {source} has no form in opset {self.opset}{why}"
            ) from None
        for name in [n for n in node.attributes if n not in old.attributes]:
            default = new.attributes[name].default_value.SerializeToString()
            said = ir.to_proto(node.attributes[name]).SerializeToString()
            if name != _FLOAT8_SCALES and said != default:
                raise BqcError(
                    f"{node_name(node)}: attribute {name} of opset {source} has no form in opset {self.opset}; "
                    f"export again with opset {self.opset} or lower"
                )
            del node.attributes[name]


def _read(node: ir.Node) -> list[ir.Value]:
    return [value for value in (fed(node, at) for at in range(4)) if value is not None]


def _attention(w: Writer, node: ir.Node) -> Sequence[ir.Value | None]:
    query, key, value, mask = (fed(node, at) for at in range(4))
    get = node.attributes.get_int
    refuse_unless(all(fed(node, at) is None for at in _CACHES), "it has a cache of past keys")
    refuse_unless(not get("is_causal", 0), "it is causal (a decoder)")
    refuse_unless(not node.attributes.get_float("softcap", 0.0), "it caps its scores (softcap)")
    assert query is not None, "the checker counted its inputs"
    assert key is not None, "the checker counted its inputs"
    assert value is not None, "the checker counted its inputs"
    refuse_unless(query.dtype is not None, "the type of its query is not known")
    asked, held = dims(query) or [], dims(key) or []
    refuse_unless(
        len(asked) in (3, 4) and len(held) == len(asked), "the ranks of query and key are not known"
    )
    split = len(asked) == 4
    heads, groups = (asked[1], held[1]) if split else (get("q_num_heads", 0), get("kv_num_heads", 0))
    refuse_unless(isinstance(heads, int) and heads > 0, "the number of its heads is not known")
    refuse_unless(heads == groups, "its keys have fewer heads than its queries (grouped queries)")
    width = asked[-1]
    refuse_unless(isinstance(width, int), "the width of its query is not known")
    assert isinstance(heads, int), "just checked"
    assert isinstance(width, int), "just checked"
    bias = None if mask is None else _bias(w, mask, query)
    scale = node.attributes.get_float("scale", 0.0) or (width if split else width // heads) ** -0.5
    if split:
        return [_product(w, query, key, value, bias, scale)]
    query, key, value = (_split(w, part, heads) for part in (query, key, value))
    return [_merged(w, _product(w, query, key, value, bias, scale))]


def _split(w: Writer, value: ir.Value, heads: int) -> ir.Value:
    """`[B, S, H]` as `[B, h, S, d]`."""
    kind = value.dtype or ir.DataType.FLOAT
    sizes = w.shared("attention_split", np.array([0, 0, heads, -1], np.int64))
    return w.op("Transpose", w.op("Reshape", value, sizes, dtype=kind), dtype=kind, perm=[0, 2, 1, 3])


def _merged(w: Writer, context: ir.Value) -> ir.Value:
    """`[B, h, S, d]` as `[B, S, H]`."""
    kind = context.dtype or ir.DataType.FLOAT
    sizes = w.shared("attention_merge", np.array([0, 0, -1], np.int64))
    return w.op("Reshape", w.op("Transpose", context, dtype=kind, perm=[0, 2, 1, 3]), sizes, dtype=kind)


def _product(
    w: Writer, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value | None, scale: float
) -> ir.Value:
    """Softmax(Q K^T scale + bias) V `[B, h, S, d]`."""
    kind = query.dtype or ir.DataType.FLOAT
    turned = w.op("Transpose", key, dtype=kind, perm=[0, 1, 3, 2])
    factor = w.shared("attention_scale", np.asarray(scale, kind.numpy()))
    scores = w.op("Mul", w.op("MatMul", query, turned, dtype=kind), factor, dtype=kind)
    if bias is not None:
        scores = w.op("Add", scores, bias, dtype=kind)
    return w.op("MatMul", w.op("Softmax", scores, dtype=kind, axis=-1), value, dtype=kind)


def _bias(w: Writer, mask: ir.Value, query: ir.Value) -> ir.Value:
    """What is added to the scores: the mask itself, or 0 and -inf where it holds truth values."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    kind = query.dtype or ir.DataType.FLOAT
    kept, away = (
        w.shared(name, np.asarray(number, kind.numpy()))
        for name, number in (("attention_kept", 0.0), ("attention_away", -np.inf))
    )
    return w.op("Where", mask, kept, away, dtype=kind)

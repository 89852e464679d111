"""Changes that make a canonical BERT partly foreign: each puts in something that bqc does not compile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bqc.ir.anatomy import LAYER_KEY, ROLE_KEY, nodes_of
from bqc.ir.build import Writer, write_linear
from bqc.ir.synthetic import canonical_bert

__all__ = ["EMBEDDINGS", "HEADS", "LAYERS", "foreign"]

HIDDEN, FFN = 64, 128

Build = Callable[[Writer, ir.Value], ir.Value]
Change = Callable[[ir.Model, str], None]


def foreign(change: Change, layer: str = "1") -> ir.Model:
    """Three layers, one of them (or the embedding, or the head) changed; without labels, as an exporter writes it."""
    model = canonical_bert(layers=3, hidden=HIDDEN, heads=2, ffn=FFN)
    change(model, layer)
    stored = ir.from_proto(ir.to_proto(model))
    for item in (*stored.graph, *stored.graph.initializers.values()):
        for key in (LAYER_KEY, ROLE_KEY):
            item.metadata_props.pop(key, None)
    stored.metadata_props.clear()
    return stored


def _node(model: ir.Model, layer: str, role: str, op_type: str) -> ir.Node:
    return [n for n in nodes_of(model, layer, role) if n.op_type == op_type][-1]


def _behind(role: str, op_type: str, build: Build) -> Change:
    """What read the output of that node reads what `build` makes of it."""

    def change(model: ir.Model, layer: str) -> None:
        node = _node(model, layer, role, op_type)
        users = list(node.outputs[0].uses())
        w = Writer(model.graph)
        made = build(w, node.outputs[0])
        model.graph.insert_after(node, w.nodes)
        for user, index in users:
            user.replace_input_with(index, made)

    return change


def _instead(role: str, op_type: str, build: Build) -> Change:
    """What read the output of that node reads what `build` makes of its first input."""

    def change(model: ir.Model, layer: str) -> None:
        node = _node(model, layer, role, op_type)
        assert node.inputs[0] is not None
        w = Writer(model.graph)
        made = build(w, node.inputs[0])
        model.graph.insert_before(node, w.nodes)
        node.outputs[0].replace_all_uses_with(made)
        model.graph.remove(node)

    return change


def _random(w: Writer, name: str, *shape: int) -> ir.Value:
    rng = np.random.default_rng(sum(map(ord, name)))
    return w.const(name, (rng.standard_normal(shape) * 0.1).astype(np.float32))


def _linear(w: Writer, x: ir.Value, name: str, n_in: int, n_out: int) -> ir.Value:
    return write_linear(w, x, _random(w, f"{name}.weight", n_in, n_out), _random(w, f"{name}.bias", n_out))


def _silu(w: Writer, x: ir.Value) -> ir.Value:
    return w.op("Mul", x, w.op("Sigmoid", x))


def _quick_gelu(w: Writer, x: ir.Value) -> ir.Value:
    return w.op("Mul", x, w.op("Sigmoid", w.op("Mul", x, w.const("quick", np.float32(1.702)))))


def _clip(limit: float) -> Build:
    return lambda w, x: w.op(
        "Clip", x, w.const("low", np.float32(-limit)), w.const("high", np.float32(limit))
    )


def _rms_norm(w: Writer, x: ir.Value) -> ir.Value:
    square = w.op("ReduceMean", w.op("Mul", x, x), w.const("last", np.array([-1])), keepdims=1)
    deviation = w.op("Sqrt", w.op("Add", square, w.const("tiny", np.float32(1e-6))))
    return w.op("Mul", w.op("Div", x, deviation), w.const("gain", np.full(HIDDEN, 1.1, np.float32)))


def _adapter(w: Writer, x: ir.Value) -> ir.Value:
    down = w.op("Relu", _linear(w, x, "down", HIDDEN, 8))
    return w.op("Add", _linear(w, down, "up", 8, HIDDEN), x)


def _lora(role: str) -> Change:
    """A product of two thin matrices beside a linear."""

    def change(model: ir.Model, layer: str) -> None:
        x = _node(model, layer, role, "MatMul").inputs[0]

        def build(w: Writer, out: ir.Value) -> ir.Value:
            thin = w.op("MatMul", x, _random(w, "lora.a", HIDDEN, 4))
            side = w.op("MatMul", thin, _random(w, "lora.b", 4, HIDDEN))
            return w.op("Add", out, w.op("Mul", side, w.const("lora.scale", np.float32(0.5))))

        _behind(role, "Add", build)(model, layer)

    return change


LAYERS: dict[str, tuple[Change, str]] = {
    "silu": (_instead("ffn.gelu", "Gelu", _silu), "{i}:ffn.gelu"),
    "quick-gelu": (_instead("ffn.gelu", "Gelu", _quick_gelu), "{i}:ffn.gelu"),
    "clip-after-attention": (_behind("attention.norm", "LayerNormalization", _clip(1)), "{i}:ffn.input"),
    "clip-scores": (_behind("attention.scores", "Mul", _clip(0.5)), "{i}:attention"),
    "clip-scores-far": (_behind("attention.scores", "Mul", _clip(50)), "{i}:attention"),
    "rms-norm": (_instead("ffn.norm", "LayerNormalization", _rms_norm), "{i}:ffn"),
    "rms-norm-of-attention": (_instead("attention.norm", "LayerNormalization", _rms_norm), "{i}:attention"),
    "adapter": (_behind("ffn.output", "Add", _adapter), "{i}:ffn"),
    "adapter-of-attention": (_behind("attention.output", "Add", _adapter), "{i}:attention"),
    "lora-query": (_lora("attention.query"), "{i}:attention"),
    "lora-output": (_lora("attention.output"), "{i}:attention"),
}
"""Name -> the change of a layer and the first part that stays float, `{i}` being the layer."""


def _extra_table(w: Writer, x: ir.Value) -> ir.Value:
    ids = next(v for v in w.graph.inputs if v.name == "token_type_ids")
    return w.op("Add", x, w.op("Gather", _random(w, "tasks", 4, HIDDEN), ids, axis=0))


def _scaled(w: Writer, x: ir.Value) -> ir.Value:
    return w.op("Mul", x, w.const("root", np.float32(8)))


def _in_embedding(change: Change) -> Change:
    return lambda model, _: change(model, "embedding")


EMBEDDINGS: dict[str, Change] = {
    "extra-table": _in_embedding(_behind("embedding.sum", "Add", _extra_table)),
    "scaled": _in_embedding(_behind("embedding.word", "Gather", _scaled)),
}


def _output(name: str, shape: list[int | str], build: Build) -> Change:
    """A further output, made of the last hidden state."""

    def change(model: ir.Model, _: str) -> None:
        w = Writer(model.graph)
        out = build(w, _node(model, "2", "ffn.norm", "LayerNormalization").outputs[0])
        out.name, out.shape = name, ir.Shape(shape)
        model.graph.extend(w.nodes)
        model.graph.outputs.append(out)

    return change


def _convolution(w: Writer, h: ir.Value) -> ir.Value:
    kernel = _random(w, "kernel", HIDDEN, HIDDEN, 3)
    near = w.op("Conv", w.op("Transpose", h, perm=[0, 2, 1]), kernel, pads=[1, 1])
    return _linear(w, w.op("Transpose", w.op("Relu", near), perm=[0, 2, 1]), "tags", HIDDEN, 5)


def _mean(w: Writer, h: ir.Value) -> ir.Value:
    pooled = w.op("ReduceMean", h, w.const("tokens", np.array([1])), keepdims=0)
    return w.op("Softmax", _linear(w, pooled, "mean", HIDDEN, 4))


HEADS: dict[str, tuple[Change, list[str]]] = {
    "convolution": (_output("tags", ["batch", "sequence", 5], _convolution), ["head:head"]),
    "tags-too": (
        _output("tags", ["batch", "sequence", 7], lambda w, h: _linear(w, h, "tags", HIDDEN, 7)),
        [],
    ),
    "mean-and-softmax": (_output("probabilities", ["batch", 4], _mean), []),
}
"""Name -> a head beside the classifier, and the parts that stay float."""

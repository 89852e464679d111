"""The smallest thing that looks like an encoder from outside: for tests of verbs, not of rewriting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "VOCABULARY",
    "write_classifier",
    "write_doubler",
    "write_embedder",
    "write_reader",
    "write_tagger",
    "write_tokenizer",
]

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "the", "a", "is", "not", "very"]

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write_classifier(
    path: Path,
    weight: np.ndarray | None = None,
    labels: list[str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Sum of a table ``[vocabulary, classes]`` over the tokens: ``logits[batch, classes]``.

    The default table says class 1 for "good" and class 0 for "bad". ``labels`` writes a config.json beside
    it.
    """
    if weight is None:
        weight = np.zeros((len(VOCABULARY), 2), dtype=np.float32)
        weight[VOCABULARY.index("good")] = -1, 1
        weight[VOCABULARY.index("bad")] = 1, -1
    nodes = [
        *_tokens(),
        helper.make_node("ReduceSum", ["kept", "axes"], ["logits"], keepdims=0),
    ]
    axes = numpy_helper.from_array(np.asarray([1], dtype=np.int64), "axes")
    _write(path, nodes, [weight.astype(np.float32), axes], "logits", ["batch", weight.shape[1]], metadata)
    if labels is not None:
        config = {"id2label": {str(index): name for index, name in enumerate(labels)}}
        (path.parent / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def write_embedder(path: Path, width: int = 24, noise: float = 0.0, seed: int = 0) -> Path:
    """A random table over the tokens: ``last_hidden_state[batch, sequence, width]``, nonsense at padding."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((len(VOCABULARY), width)).astype(np.float32)
    weight += noise * np.random.default_rng(seed + 1).standard_normal(weight.shape).astype(np.float32)
    weight[0] = noise * 1e6
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    _write(path, nodes, [weight], "last_hidden_state", ["batch", "sequence", width], None)
    return path


def write_tagger(path: Path, weight: np.ndarray, labels: list[str] | None = None) -> Path:
    """A row of a table ``[vocabulary, tags]`` a token: ``logits[batch, sequence, tags]``."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["logits"])]
    shape = ["batch", "sequence", weight.shape[1]]
    _write(path, nodes, [weight.astype(np.float32)], "logits", shape, None)
    if labels is not None:
        config = {"id2label": {str(index): name for index, name in enumerate(labels)}}
        (path.parent / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def write_reader(path: Path, weight: np.ndarray) -> Path:
    """A row of a table ``[vocabulary, 2]`` a token: ``start_logits`` and ``end_logits[batch, sequence]``."""
    write_tagger(path, weight)
    model = onnx.load(str(path))
    model.graph.node.extend(
        [
            helper.make_node("Split", ["logits"], ["start", "end"], axis=2, num_outputs=2),
            helper.make_node("Constant", [], ["last"], value_ints=[-1]),
            helper.make_node("Squeeze", ["start", "last"], ["start_logits"]),
            helper.make_node("Squeeze", ["end", "last"], ["end_logits"]),
        ]
    )
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence"])
        for name in ("start_logits", "end_logits")
    )
    onnx.save(model, str(path))
    return path


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer.json over ``VOCABULARY``, with [CLS] and [SEP] as BERT has them."""
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    special = {word: {"id": word, "ids": [vocabulary[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]")}

    def piece(word: str, kind: int) -> dict[str, object]:
        return {"SpecialToken": {"id": word, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, object]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, text("B", 1), piece("[SEP]", 1)],
            "special_tokens": special,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def write_doubler(path: Path) -> Path:
    """One ``ai.bqc`` node, ``Double`` named ``twice``, whose body doubles its float input ``x[n]``."""
    body = [helper.make_node("Add", ["x", "x"], ["y"])]
    standard = helper.make_opsetid("", 18)
    graph = helper.make_graph(
        [helper.make_node("Double", ["x"], ["y"], domain="ai.bqc", name="twice")],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(
        graph,
        functions=[helper.make_function("ai.bqc", "Double", ["x"], ["y"], body, [standard])],
        opset_imports=[standard, helper.make_opsetid("ai.bqc", 1)],
        ir_version=9,
    )
    onnx.save(model, str(path))
    return path


def _tokens() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Mul", ["looked_up", "mask3"], ["kept"]),
    ]


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[np.ndarray | onnx.TensorProto],
    output: str,
    shape: list[int | str],
    metadata: dict[str, str] | None,
) -> None:
    nodes.sort(key=lambda node: node.op_type != "Constant")
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in _INPUTS],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(value, "table") if isinstance(value, np.ndarray) else value
            for value in constants
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata:
        helper.set_model_props(model, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))

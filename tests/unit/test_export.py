"""Checkpoint to ONNX: what is written, and what is refused. Needs the extra `export`."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bqc.errors import BqcError
from bqc.export import export
from bqc.ir import import_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=32,
        vocab_size=90,
        max_position_embeddings=40,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    network = transformers.BertForSequenceClassification(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    return folder


def test_classification(checkpoint: Path, tmp_path: Path) -> None:
    result = export(checkpoint, tmp_path, exporter="torchscript", weights="fp16")
    assert result.path == tmp_path / "model.onnx"
    assert (result.task, result.outputs) == ("classification", ("logits",))
    assert result.max_diff < 1e-5
    assert (tmp_path / "config.json").is_file()
    model = ir.load(result.path)
    halves = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT16]
    assert "bert.encoder.layer.1.output.dense.weight.fp16" in [v.name for v in halves]
    assert model.ir_version <= 10
    _, summary = import_model(result.path)
    assert (summary.encoder.layers, summary.encoder.head_dim, summary.encoder.head) == (2, 12, 2)


def test_embedding_follows_sentence_transformers(checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in checkpoint.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    modules = [{"type": f"sentence_transformers.models.{n}"} for n in ("Transformer", "Pooling", "Normalize")]
    (source / "modules.json").write_text(json.dumps(modules))
    (source / "1_Pooling").mkdir()
    pooling = source / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
    result = export(source, tmp_path / "m.onnx", task="embedding", exporter="torchscript")
    assert result.outputs == ("last_hidden_state", "sentence_embedding")
    model, summary = import_model(result.path)
    assert summary.encoder.head == 0
    assert any(n.op_type in ("LpNormalization", "ReduceL2") for n in model.graph)
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(BqcError, match="only mean and first-token pooling are exported"):
        export(source, tmp_path / "n.onnx", task="embedding", exporter="torchscript")
    assert not (tmp_path / "n.onnx").exists()


HEADS = {
    "token-classification": ("DistilBertForTokenClassification", ["logits"]),
    "question-answering": ("DistilBertForQuestionAnswering", ["start_logits", "end_logits"]),
    "masked-lm": ("DistilBertForMaskedLM", ["logits"]),
}


@pytest.mark.parametrize("task", HEADS)
def test_heads_as_the_checkpoint_says(task: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    architecture, outputs = HEADS[task]
    config = transformers.DistilBertConfig(
        dim=24, n_heads=2, n_layers=1, hidden_dim=32, vocab_size=90, max_position_embeddings=40
    )
    getattr(transformers, architecture)(config).save_pretrained(tmp_path / "source")
    result = export(tmp_path / "source", tmp_path / "m.onnx", exporter="torchscript")
    assert (result.task, list(result.outputs)) == (task, outputs)
    assert result.inputs == ("input_ids", "attention_mask")
    declared = ir.load(result.path).graph.outputs
    assert [str(v.shape[1]) for v in declared if v.shape is not None] == ["sequence"] * len(outputs)


@pytest.mark.parametrize(
    ("pooling", "outputs"),
    [
        ("cls", ("last_hidden_state", "sentence_embedding")),
        ("pooler", ("last_hidden_state", "pooler_output")),
        ("none", ("last_hidden_state",)),
    ],
)
def test_pooling(pooling: Any, outputs: tuple[str, ...], checkpoint: Path, tmp_path: Path) -> None:
    result = export(checkpoint, tmp_path, task="embedding", exporter="torchscript", pooling=pooling)
    assert result.outputs == outputs
    _, summary = import_model(result.path)
    assert summary.encoder.pooler == (pooling == "pooler")


def test_a_module_with_weights_is_not_dropped(checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in checkpoint.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    modules = [{"type": f"sentence_transformers.models.{n}"} for n in ("Transformer", "Pooling", "Dense")]
    (source / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BqcError, match="the module Dense is not exported"):
        export(source, tmp_path / "m.onnx", task="embedding", exporter="torchscript")


def test_a_new_head_is_drawn_by_the_seed(checkpoint: Path, tmp_path: Path) -> None:
    old, new, again, other = (
        _weights(export(checkpoint, tmp_path / name, exporter="torchscript", **options).path)
        for name, options in {
            "old": {},
            "new": {"new_head": "sst2"},
            "again": {"new_head": "sst2"},
            "other": {"new_head": "sst2", "seed": 1},
        }.items()
    )
    head, layer = "classifier.weight", "bert.encoder.layer.1.output.dense.bias"
    assert np.array_equal(new[head], again[head])
    assert not np.array_equal(new[head], other[head])
    # The checkpoint's own head, which has the same shape, is not taken.
    assert not np.array_equal(new[head], old[head])
    assert np.array_equal(new[layer], old[layer])
    assert np.array_equal(new["bert.pooler.dense.weight"], old["bert.pooler.dense.weight"])
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}


@pytest.mark.parametrize(
    ("new_head", "task", "labels"),
    [
        ("conll03", "token-classification", 9),
        ("squad", "question-answering", 2),
        ("sts-b", "classification", 1),
        ("spam, ham, news", "classification", 3),
    ],
)
def test_new_heads(new_head: str, task: str, labels: int, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "modules.json").write_text("[]")
    try:
        result = export(checkpoint, tmp_path, exporter="torchscript", new_head=new_head)
    finally:
        (checkpoint / "modules.json").unlink()
    assert result.task == task
    config = json.loads((tmp_path / "config.json").read_text())
    assert len(config.get("id2label", {0: "start", 1: "end"})) == labels
    # What says how to make an embedding is not true of the new head.
    assert not (tmp_path / "modules.json").exists()
    assert import_model(result.path)[1].encoder.layers == 2


@pytest.mark.parametrize(
    ("new_head", "task", "text"),
    [
        ("mrcp", None, "did you mean mrpc"),
        ("spam,,ham", None, "none may be empty"),
        ("spam,spam", None, "labels of a head must differ"),
        ("sst2", "embedding", "a new head for sst2 is for classification, not for embedding"),
    ],
)
def test_no_such_head(new_head: str, task: Any, text: str, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BqcError, match=text):
        export(checkpoint, tmp_path / "m.onnx", task, new_head=new_head)


def _weights(path: Path) -> dict[str, np.ndarray]:
    initializers = ir.load(path).graph.initializers.values()
    return {v.name or "": v.const_value.numpy() for v in initializers if v.const_value is not None}


@pytest.mark.parametrize(
    ("source", "text"),
    [("/nowhere/at/all", "not a model directory"), ("a/b/c", "not a model directory")],
)
def test_no_checkpoint(source: str, text: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(BqcError, match=text):
        export(source, tmp_path / "m.onnx")


def test_a_folder_without_config(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(BqcError, match=r"no config\.json here"):
        export(tmp_path, tmp_path / "m.onnx")


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without_torch(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch":
            raise ImportError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(BqcError, match=r"pip install 'bqc\[export\]'"):
        export(tmp_path, tmp_path / "m.onnx")

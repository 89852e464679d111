"""Tiny random BERTs, exported by torch in every supported way and kept for the whole test session."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from bqc.ir.inputs import INPUTS_KEY, InputSpecs
from bqc.runtime.inputs import Batch, EncoderInputs

__all__ = [
    "EXPORTS",
    "SLOW_EXPORTS",
    "Export",
    "batches",
    "fixed_sizes",
    "largest_difference",
    "outputs_of",
    "session",
    "typed",
]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Export:
    """How a model is exported; `gelu_new` is the Tanh form. Hidden 52 = 2 heads x 26."""

    exporter: str
    opset: int
    attention: str = "eager"
    head: str = "classification"
    act: str = "gelu"
    hidden: int = 48
    heads: int = 4
    inputs: tuple[str, ...] = INPUTS

    def __str__(self) -> str:
        return "-".join(
            map(
                str,
                (
                    self.exporter,
                    self.opset,
                    self.attention,
                    self.head,
                    self.act,
                    self.hidden,
                    len(self.inputs),
                ),
            )
        )

    @property
    def path(self) -> Path:
        """The exported file."""
        return _export(self)


EXPORTS = (
    Export("torchscript", 11),
    Export("torchscript", 12, act="gelu_new", head="model"),
    Export("torchscript", 13, hidden=52, heads=2),
    Export("torchscript", 14, "sdpa", act="gelu_new"),
    Export("torchscript", 17, "sdpa", head="bare"),
    Export("torchscript", 17, head="pooled", inputs=INPUTS[:2]),
    Export("dynamo", 18, "sdpa", act="gelu_new"),
    Export("dynamo", 21, head="pooled", inputs=INPUTS[:2]),
)
SLOW_EXPORTS = (
    Export("dynamo", 18, hidden=52, heads=2),
    Export("dynamo", 19, act="gelu_new"),
    Export("dynamo", 20, "sdpa", hidden=52, heads=2),
    Export("dynamo", 21, "sdpa", head="model"),
)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="exports-")


@functools.cache
def _export(how: Export) -> Path:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=how.hidden,
        num_attention_heads=how.heads,
        num_hidden_layers=2,
        intermediate_size=2 * how.hidden,
        vocab_size=120,
        max_position_embeddings=64,
        hidden_act=how.act,
        attn_implementation=how.attention,
    )
    network = _network(transformers, config, how.head).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = Path(_folder().name) / f"{how}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _run(torch, _wrapped(torch, network, how).eval(), how, path)
    return path


def _network(transformers: Any, config: Any, head: str) -> Any:
    if head == "classification":
        return transformers.BertForSequenceClassification(config)
    return transformers.BertModel(config, add_pooling_layer=head == "model")


def _wrapped(torch: Any, network: Any, how: Export) -> Any:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = network

        def forward(self, *values: Any) -> Any:
            feeds = dict(zip(how.inputs, values, strict=True))
            out = self.bert(**feeds, return_dict=True)
            if how.head == "classification":
                return out.logits
            if how.head == "model":
                return out.last_hidden_state, out.pooler_output
            if how.head == "bare":
                return out.last_hidden_state
            mask = feeds["attention_mask"].unsqueeze(-1).float()
            mean = (out.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return out.last_hidden_state, torch.nn.functional.normalize(mean, dim=1)

    return Wrapped()


def _run(torch: Any, module: Any, how: Export, path: Path) -> None:
    # One tensor an input: the dynamo exporter takes two inputs that are the same tensor for one.
    kinds = {"token_type_ids": 0}
    arguments = tuple(torch.full((2, 7), kinds.get(name, 1), dtype=torch.int64) for name in how.inputs)
    outputs = {
        "classification": ["logits"],
        "model": ["last_hidden_state", "pooler_output"],
        "bare": ["last_hidden_state"],
        "pooled": ["last_hidden_state", "sentence_embedding"],
    }[how.head]
    options = {"input_names": list(how.inputs), "output_names": outputs, "opset_version": how.opset}
    if how.exporter == "dynamo":
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
        shapes = (tuple(sizes for _ in how.inputs),)
        torch.onnx.export(
            module, arguments, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, **options
        )
    else:
        axes = {name: {0: "batch", 1: "sequence"} for name in how.inputs}
        axes |= {n: {0: "batch", 1: "sequence"} if "hidden" in n else {0: "batch"} for n in outputs}
        torch.onnx.export(module, arguments, str(path), dynamo=False, dynamic_axes=axes, **options)


def session(model: Path | ir.Model | onnx.ModelProto) -> ort.InferenceSession:
    """A CPU session of a file or a model in memory."""
    if isinstance(model, ir.Model):
        model = ir.to_proto(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def batches(
    names: set[str], vocabulary: int = 100, fixed: tuple[int | None, int | None] = (None, None)
) -> Iterator[dict[str, np.ndarray]]:
    """Batch 1 and 3, or as fixed; no padding, right padding, left padding, holes."""
    rng = np.random.default_rng(0)
    for batch, length in ((1, 5), (3, 9), (1, 1)):
        batch, length = fixed[0] or batch, fixed[1] or length
        mask = np.ones((batch, length), np.int64)
        for row, hidden in enumerate((slice(length - 4, None), slice(3), slice(2, 5))):
            if batch > 1 and row < batch:
                mask[row, hidden] = 0
        feeds = {
            "input_ids": rng.integers(1, vocabulary, (batch, length)),
            "attention_mask": mask,
            "padding_mask": 1 - mask,
            "token_type_ids": rng.integers(0, 2, (batch, length)),
            "position_ids": np.broadcast_to(np.arange(length), (batch, length)),
        }
        yield {name: feeds[name] for name in names}


def largest_difference(one: Path | ir.Model, other: Path | ir.Model, *, padding: bool = True) -> float:
    """Over all outputs of both models (same names, same shapes) and all `batches`; at padding only with `padding`."""
    first, second = session(one), session(other)
    names = [out.name for out in first.get_outputs()]
    assert names == [out.name for out in second.get_outputs()]
    specs = _specs(one, other)
    worst = 0.0
    results = (outputs_of(running, specs) for running in (first, second))
    for (mask, mine), (_, theirs) in zip(*results, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            gap = np.abs(a - b)
            if not padding:
                # Heads read the first token.
                gap = gap[mask != 0] if gap.shape[:2] == mask.shape else gap[mask[:, 0] != 0]
            worst = max(worst, float(gap.max()))
    return worst


def outputs_of(
    running: ort.InferenceSession, specs: InputSpecs
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """The mask and the outputs of all `batches`, with as many token types as there are."""
    inputs = EncoderInputs.of(running, specs)
    for feeds in batches({"input_ids", "attention_mask", "token_type_ids"}, fixed=fixed_sizes(running)):
        mask = feeds["attention_mask"]
        batch = Batch(feeds["input_ids"], mask, feeds["token_type_ids"] % inputs.types)
        yield mask, running.run(None, inputs.feeds(batch))


def _specs(*models: Path | ir.Model) -> InputSpecs:
    """What the inputs take, as one of the models tells that was imported."""
    texts = (one.metadata_props.get(INPUTS_KEY) for one in models if isinstance(one, ir.Model))
    return InputSpecs.of_json(next(filter(None, texts), None))


def fixed_sizes(one: ort.InferenceSession) -> tuple[int | None, int | None]:
    """Batch and sequence of the inputs where they are numbers."""
    batch, *_, length = next(i.shape for i in one.get_inputs() if len(i.shape) > 1)
    return (batch if isinstance(batch, int) else None, length if isinstance(length, int) else None)


def typed(one: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Feeds in the types that the session's inputs have."""
    kinds = {"tensor(int32)": np.int32, "tensor(bool)": bool, "tensor(float)": np.float32}
    wanted = {i.name: kinds.get(i.type, np.int64) for i in one.get_inputs()}
    return {name: value.astype(wanted[name]) for name, value in feeds.items()}

"""Tiny random encoders of every family and head, and the ways to export them.

An exporter is a function from a `Cell` to the path of the file it wrote; `EXPORTERS` is a plain dictionary, so
that another module can add its own and `tools/support_matrix.py` runs it with the rest.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "EXPORTERS",
    "FAMILIES",
    "HEADS",
    "VOCABULARY",
    "CannotExport",
    "Cell",
    "draw_weights",
    "exported",
    "inputs_of",
    "network_of",
]

VOCABULARY = 120
POSITIONS = 64

_SIZES = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
}
_ROBERTA = {**_SIZES, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "pad_token_id": 1}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _SIZES),
    "minilm": ("bert", {**_SIZES, "num_attention_heads": 12, "intermediate_size": 192}),
    "distilbert": (
        "distilbert",
        {
            "dim": 48,
            "n_heads": 4,
            "n_layers": 2,
            "hidden_dim": 96,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": POSITIONS,
        },
    ),
    "roberta": ("roberta", _ROBERTA),
    "xlm-roberta": ("xlm-roberta", _ROBERTA),
    "camembert": ("camembert", _ROBERTA),
    "electra": ("electra", {**_SIZES, "embedding_size": 32}),
    "electra-same-size": ("electra", {**_SIZES, "embedding_size": 48}),
    "mpnet": ("mpnet", {**_SIZES, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}),
    "albert": ("albert", {**_SIZES, "embedding_size": 32, "hidden_act": "gelu_new"}),
    "deberta": ("deberta", {**_SIZES, "pos_att_type": ["c2p", "p2c"], "relative_attention": True}),
    "deberta-v2": ("deberta-v2", {**_SIZES, "pos_att_type": ["c2p", "p2c"], "relative_attention": True}),
    "modernbert": (
        "modernbert",
        {
            **_SIZES,
            "pad_token_id": 0,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "nomic-bert": ("nomic_bert", _SIZES),
    "roberta-prelayernorm": ("roberta-prelayernorm", _ROBERTA),
    "convbert": ("convbert", {**_SIZES, "embedding_size": 48}),
    "mobilebert": (
        "mobilebert",
        {**_SIZES, "embedding_size": 24, "intra_bottleneck_size": 24, "normalization_type": "no_norm"},
    ),
    "squeezebert": ("squeezebert", {**_SIZES, "embedding_size": 48}),
    "megatron-bert": ("megatron-bert", _SIZES),
}
"""Family -> transformers' model type and the configuration of a tiny one."""

HEADS = {
    "classification": ("AutoModelForSequenceClassification", ("logits",)),
    "tokens": ("AutoModelForTokenClassification", ("logits",)),
    "question-answering": ("AutoModelForQuestionAnswering", ("start_logits", "end_logits")),
    "masked-lm": ("AutoModelForMaskedLM", ("logits",)),
    "mean": ("AutoModel", ("last_hidden_state", "sentence_embedding")),
    "mean-l2": ("AutoModel", ("sentence_embedding",)),
    "cls": ("AutoModel", ("sentence_embedding",)),
    "cls-l2": ("AutoModel", ("last_hidden_state", "sentence_embedding")),
    "pooler": ("AutoModel", ("last_hidden_state", "pooler_output")),
    "bare": ("AutoModel", ("last_hidden_state",)),
}
"""Head -> transformers' factory and the outputs."""


class CannotExport(Exception):
    """transformers has no such model, or torch cannot export it; the text says which."""


@dataclass(frozen=True)
class Cell:
    """One family with one head; `changes` are further settings of the configuration."""

    family: str
    head: str
    attention: str = "eager"
    changes: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        parts = [self.family, self.head, self.attention, *(f"{k}={v}" for k, v in self.changes)]
        return "-".join(parts)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return HEADS[self.head][1]


def network_of(cell: Cell) -> Any:
    """The torch module, with weights drawn from seed 0; its forward takes the tensors of `inputs_of`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind, settings = FAMILIES[cell.family]
    torch.manual_seed(0)
    try:
        config = transformers.AutoConfig.for_model(kind, **{**settings, **dict(cell.changes)})
        factory = getattr(transformers, HEADS[cell.head][0])
        network = factory.from_config(config, attn_implementation=cell.attention).eval()
    except ValueError as error:
        raise CannotExport(str(error).strip().splitlines()[0][:120]) from error
    if cell.head == "pooler" and getattr(network, "pooler", None) is None:
        raise CannotExport("the family has no pooler")
    if cell.head != "pooler" and HEADS[cell.head][0] == "AutoModel" and hasattr(network, "pooler"):
        network.pooler = None
    draw_weights(network)
    return _wrapped(torch, network, cell, inputs_of(network)).eval()


def draw_weights(network: Any) -> None:
    """Random weights of a torch module, from torch's generator: large enough that every part counts."""
    import torch

    for name, parameter in network.named_parameters():
        norm = "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(norm), std=0.1)


def inputs_of(network: Any) -> tuple[str, ...]:
    """Inputs of a transformers model: token types where it has more than one."""
    import inspect

    known = inspect.signature(network.forward).parameters
    types = getattr(network.config, "type_vocab_size", 0) or 0
    third = ("token_type_ids",) if "token_type_ids" in known and types > 1 else ()
    return ("input_ids", "attention_mask", *third)


def _wrapped(torch: Any, network: Any, cell: Cell, names: tuple[str, ...]) -> Any:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network
            self.names = names

        def forward(self, *values: Any) -> Any:
            feeds = dict(zip(names, values, strict=True))
            out = self.model(**feeds, return_dict=True)
            if "sentence_embedding" in cell.outputs:
                out["sentence_embedding"] = _embedding(torch, out.last_hidden_state, feeds, cell.head)
            chosen = tuple(out[name] for name in cell.outputs)
            return chosen if len(chosen) > 1 else chosen[0]

    return Wrapped()


def _embedding(torch: Any, hidden: Any, feeds: dict[str, Any], head: str) -> Any:
    if head.startswith("cls"):
        pooled = hidden[:, 0]
    else:
        mask = feeds["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled, dim=1) if head.endswith("l2") else pooled


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="families-")


def _torch_exporter(
    kind: str, opset: int, *, fixed: bool = False, half: bool = False, added: bool = False, **options: Any
) -> Callable[[Cell], Path]:
    """The sizes 2 and 7 `fixed`, weights in `half` precision, a mask that is `added`; `options` are the exporter's."""

    def export(cell: Cell) -> Path:
        torch = pytest.importorskip("torch")
        module = network_of(cell)
        module = module.half() if half else module
        if added and cell.head.startswith("mean"):
            raise CannotExport("a mean needs a mask of 0 and 1")
        ways = {"fixed": fixed, "half": half, "added": added}
        what = "-".join((kind, str(opset), *(way for way, used in ways.items() if used), *options))
        path = Path(_folder().name) / f"{what}-{cell}.onnx"
        ones = torch.ones((2, 7), dtype=torch.int64)
        given = {"token_type_ids": ones * 0}
        if added:
            given["attention_mask"] = torch.zeros((2, 1, 1, 7))
        arguments = tuple(given.get(name, ones * 3) for name in module.names)
        names = {"input_names": list(module.names), "output_names": list(cell.outputs)}
        sizes: dict[str, Any] = {"batch": "batch", "sequence": "sequence"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if kind == "dynamo":
                    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=POSITIONS)}
                    shapes = (tuple(sizes for _ in module.names),)
                    torch.onnx.export(
                        module,
                        arguments,
                        str(path),
                        dynamo=True,
                        dynamic_shapes=None if fixed else shapes,
                        external_data=False,
                        opset_version=opset,
                        verbose=False,
                        **names,
                        **options,
                    )
                else:
                    flat = ("sentence_embedding", "pooler_output")
                    axes = {name: {0: "batch", 1: "sequence"} for name in (*module.names, *cell.outputs)}
                    axes |= {"attention_mask": {0: "batch", 3: "sequence"}} if added else {}
                    axes |= {
                        n: {0: "batch"} for n in cell.outputs if n in flat or cell.head == "classification"
                    }
                    torch.onnx.export(
                        module,
                        arguments,
                        str(path),
                        dynamo=False,
                        dynamic_axes=None if fixed else axes,
                        opset_version=opset,
                        **names,
                        **options,
                    )
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CannotExport(f"torch: {lines[0][:120]}") from error
        return path

    return export


EXPORTERS: dict[str, Callable[[Cell], Path]] = {
    "dynamo": _torch_exporter("dynamo", 18),
    "torchscript": _torch_exporter("torchscript", 17),
    "torchscript-11": _torch_exporter("torchscript", 11),
    "torchscript-half": _torch_exporter("torchscript", 14, half=True),
    "torchscript-added-mask": _torch_exporter("torchscript", 14, added=True),
    "torchscript-fixed": _torch_exporter("torchscript", 17, fixed=True),
    "torchscript-unfolded": _torch_exporter("torchscript", 17, do_constant_folding=False),
    "torchscript-weights-as-inputs": _torch_exporter("torchscript", 17, keep_initializers_as_inputs=True),
    "dynamo-22": _torch_exporter("dynamo", 22),
    "dynamo-23": _torch_exporter("dynamo", 23),
    "dynamo-24": _torch_exporter("dynamo", 24),
    "dynamo-fixed": _torch_exporter("dynamo", 18, fixed=True),
    "dynamo-unoptimized": _torch_exporter("dynamo", 18, optimize=False),
}
"""Name -> function that writes a cell's model and returns its path, or raises `CannotExport`."""


@functools.cache
def exported(exporter: str, cell: Cell) -> Path:
    """The file that the exporter wrote for the cell, once a session."""
    return EXPORTERS[exporter](cell)

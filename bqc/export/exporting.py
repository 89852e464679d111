"""Hugging Face checkpoint -> float ONNX: what `bqc export` does.

The exported graph has a dynamic batch and sequence, the tokenizer and config.json lie beside it, and it is
not handed over before ONNX Runtime has reproduced torch on ragged batches. Needs the extra `bqc[export]`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from bqc.errors import BqcError
from bqc.export.agreement import generated_feeds, largest_difference
from bqc.export.heads import NewHead
from bqc.export.sentence_transformers import Pooling, normalizes, pooling_of
from bqc.export.tidying import ONE_FILE_LIMIT, tidy

__all__ = ["POOLINGS", "TASKS", "ExportResult", "export"]

Task = Literal["classification", "token-classification", "question-answering", "masked-lm", "embedding"]

TASKS: tuple[Task, ...] = get_args(Task)
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

TOLERANCE = 1e-4
COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


_OLD_HEAD = ("config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
"""Companions that tell what is made of an encoder's hidden states."""


@dataclass(frozen=True)
class ExportResult:
    """What was written and how closely it agrees with torch."""

    path: Path
    task: Task
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_diff: float
    parameters: int
    file_bytes: int


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    task: Task | None = None,
    opset: int | None = None,
    exporter: Literal["dynamo", "torchscript"] = "dynamo",
    *,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
    weights: Literal["fp32", "fp16"] = "fp32",
    attention: Literal["eager", "sdpa"] = "eager",
    new_head: str | None = None,
    seed: int = 0,
) -> ExportResult:
    """Export a checkpoint directory or hub id to `output` (a file, or a directory that gets `model.onnx`).

    Inputs are int64 `[batch, sequence]`; outputs are float32:

    - classification: `logits[batch, labels]`
    - token-classification: `logits[batch, sequence, labels]`
    - question-answering: `start_logits[batch, sequence]`, `end_logits[batch, sequence]`
    - masked-lm: `logits[batch, sequence, vocabulary]`
    - embedding: `last_hidden_state[batch, sequence, hidden]`, and `sentence_embedding[batch, hidden]`: the mean
      over unmasked tokens or (`pooling="cls"`) the first token, then L2 normalisation when `normalize`, both by
      default as the checkpoint's sentence-transformers files say; or (`"pooler"`) `pooler_output[batch, hidden]`;
      or (`"none"`) nothing else.

    `new_head` puts a head of random weights, drawn by `seed`, on the encoder, to be trained: for a task of `bqc eval`
    by name, or for labels separated by commas. config.json then names the labels.

    `weights="fp16"` rounds weights to half precision and stores them behind Cast nodes; arithmetic stays
    float32.

    Raises:
        BqcError: torch or transformers is missing, the checkpoint cannot be read, the task does not fit, there is no
            such new head, or ONNX Runtime and torch differ by more than 1e-4.
    """
    torch, transformers = _libraries()
    head = None if new_head is None else NewHead.parse(new_head)
    if head is not None and task not in (None, head.task):
        raise BqcError(f"a new head for {new_head} is for {head.task}, not for {task}; leave --task out")
    where = _checkpoint(source)
    path = Path(output)
    if path.is_dir() or path.suffix != ".onnx":
        path = path / "model.onnx"
    opset = opset if opset is not None else (17 if exporter == "torchscript" else 18)
    config = _load(transformers.AutoConfig, where, source)
    task = head.task if head is not None else task or _task_of(config, where)
    network = _network(transformers, torch, where, source, task, pooling, attention, head, seed)
    if weights == "fp16":
        # The reference for the comparison below is the model as stored, not the one it was rounded from.
        for parameter in network.parameters():
            parameter.data = parameter.data.half().float()
    if task == "embedding":
        if pooling is None:
            pooling = pooling_of(where)
        if normalize is None:
            normalize = normalizes(where)
    wrapper, outputs = _wrapper(torch, network, task, pooling, bool(normalize))
    inputs = _inputs(network)
    tokenizer = _tokenizer(transformers, where)
    feeds = generated_feeds(tokenizer, config, inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        draft = Path(folder) / path.name
        with _quiet(), torch.no_grad():
            _to_onnx(torch, wrapper, draft, inputs, outputs, opset, exporter, task)
        tidy(draft, weights)
        difference = largest_difference(torch, wrapper, draft, feeds, inputs, outputs)
        if not difference <= TOLERANCE:
            raise BqcError(
                f"{source}: the exported graph differs from torch by {difference:.2g} "
                f"(at most {TOLERANCE:g} is allowed); try the other exporter or another opset"
            )
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
    _copy_companions(where, path.parent, tokenizer, None if head is None else network.config)
    parameters = sum(int(p.numel()) for p in network.parameters())
    size = sum(f.stat().st_size for f in path.parent.glob(path.name + "*"))
    return ExportResult(path, task, tuple(inputs), tuple(outputs), difference, parameters, size)


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise BqcError(f"exporting needs {error.name}: pip install 'bqc[export]'") from error
    return torch, transformers


def _checkpoint(source: str | os.PathLike[str]) -> Path:
    """The local folder of a checkpoint; hub ids are downloaded (or found in the cache)."""
    local = Path(source)
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise BqcError(f"{local}: no config.json here; give a Hugging Face model directory")
        return local
    if local.exists() or str(source).startswith((".", "/")) or str(source).count("/") > 1:
        raise BqcError(f"{local}: not a model directory; give a Hugging Face directory or a hub id")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(source), ignore_patterns=["*.onnx", "*.h5", "*.msgpack", "*.ot"]))
    except Exception as error:
        raise BqcError(f"{source}: neither a directory nor a model on the hub ({_brief(error)})") from error


def _load(factory: Any, where: Path, source: object, **options: Any) -> Any:
    try:
        with _quiet():
            return factory.from_pretrained(str(where), **options)
    except Exception as error:
        raise BqcError(f"{source}: the checkpoint cannot be loaded ({_brief(error)})") from error


def _task_of(config: Any, where: Path) -> Task:
    names = " ".join(config.architectures or ())
    if "ForSequenceClassification" in names:
        return "classification"
    # Sentence encoders keep the architecture that they were trained from.
    if (where / "modules.json").is_file() or names.endswith("Model"):
        return "embedding"
    known: dict[str, Task] = {
        "ForTokenClassification": "token-classification",
        "ForQuestionAnswering": "question-answering",
        "ForMaskedLM": "masked-lm",
    }
    for name, task in known.items():
        if name in names:
            return task
    raise BqcError(f"{where}: cannot tell the task from architectures [{names}]; give --task")


def _network(
    transformers: Any,
    torch: Any,
    where: Path,
    source: object,
    task: Task,
    pooling: Pooling | None,
    attention: str,
    head: NewHead | None,
    seed: int,
) -> Any:
    factory = {
        "classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "question-answering": transformers.AutoModelForQuestionAnswering,
        "masked-lm": transformers.AutoModelForMaskedLM,
        "embedding": transformers.AutoModel,
    }[task]
    options: dict[str, Any] = {"attn_implementation": attention, "output_loading_info": True}
    wanted = factory if head is None else transformers.AutoModel
    network, info = _load(wanted, where, source, dtype=torch.float32, **options)
    spare = head is not None or (task == "embedding" and pooling != "pooler")
    missing = [key for key in info.get("missing_keys", ()) if not spare or "pooler" not in key]
    if missing:
        raise BqcError(
            f"{source}: the checkpoint has no {missing[0]} ({len(missing)} missing); wrong --task?"
        )
    if pooling == "pooler" and getattr(network, "pooler", None) is None:
        raise BqcError(f"{source}: {type(network).__name__} has no pooler; give another --pooling")
    if head is not None:
        network = head.on(network, factory, torch, seed, attention, without=info.get("missing_keys", ()))
    return network.eval()


_OUTPUTS: dict[str, list[str]] = {
    "classification": ["logits"],
    "token-classification": ["logits"],
    "question-answering": ["start_logits", "end_logits"],
    "masked-lm": ["logits"],
}
_POOLED: dict[str, list[str]] = {
    "mean": ["last_hidden_state", "sentence_embedding"],
    "cls": ["last_hidden_state", "sentence_embedding"],
    "pooler": ["last_hidden_state", "pooler_output"],
    "none": ["last_hidden_state"],
}
_PER_TOKEN = ("last_hidden_state", "start_logits", "end_logits")


def _wrapper(
    torch: Any, network: Any, task: Task, pooling: Pooling | None, normalize: bool
) -> tuple[Any, list[str]]:
    names = _inputs(network)
    outputs = _OUTPUTS[task] if task in _OUTPUTS else _POOLED[pooling or "mean"]

    class Wrapper(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = network

        def forward(self, *values: Any) -> Any:
            feeds = dict(zip(names, values, strict=True))
            found = self.model(**feeds, return_dict=True)
            made = [
                pooled(found.last_hidden_state, feeds) if name == "sentence_embedding" else found[name]
                for name in outputs
            ]
            return tuple(made) if len(made) > 1 else made[0]

    def pooled(hidden: Any, feeds: dict[str, Any]) -> Any:
        if pooling == "cls":
            vector = hidden[:, 0]
        else:
            weight = feeds["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            vector = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(vector, p=2, dim=1) if normalize else vector

    return Wrapper().eval(), list(outputs)


def _inputs(network: Any) -> list[str]:
    import inspect

    known = inspect.signature(network.forward).parameters
    types = getattr(network.config, "type_vocab_size", 0) or 0
    names = ["input_ids", "attention_mask"]
    return names + ["token_type_ids"] * ("token_type_ids" in known and types > 1)


def _tokenizer(transformers: Any, where: Path) -> Any:
    try:
        with _quiet():
            return transformers.AutoTokenizer.from_pretrained(str(where))
    except Exception:
        return None


def _to_onnx(
    torch: Any,
    wrapper: Any,
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
    exporter: str,
    task: Task,
) -> None:
    sample = torch.ones((2, 7), dtype=torch.int64)
    arguments = tuple(sample.clone() if name != "token_type_ids" else sample * 0 for name in inputs)
    names = {"input_names": list(inputs), "output_names": list(outputs), "opset_version": opset}
    big = sum(p.numel() * 4 for p in wrapper.parameters()) > ONE_FILE_LIMIT
    try:
        if exporter == "dynamo":
            batch = torch.export.Dim("batch")
            limit = _longest(wrapper.model.config)
            sequence = torch.export.Dim("sequence", max=limit)
            shapes = (tuple({0: batch, 1: sequence} for _ in inputs),)
            torch.onnx.export(
                wrapper, arguments, str(path), dynamo=True, external_data=big, dynamic_shapes=shapes, **names
            )
        else:
            axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
            tokens = (*_PER_TOKEN, *(["logits"] if task != "classification" else []))
            axes |= {
                name: {0: "batch", 1: "sequence"} if name in tokens else {0: "batch"} for name in outputs
            }
            torch.onnx.export(wrapper, arguments, str(path), dynamo=False, dynamic_axes=axes, **names)
    except Exception as error:
        raise BqcError(
            f"torch cannot export this model with {exporter} at opset {opset}: {_brief(error)}"
        ) from error


def _longest(config: Any) -> int:
    """The longest text in tokens: RoBERTa and its kin count positions from after the padding id."""
    positions = int(getattr(config, "max_position_embeddings", 512))
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return positions - (config.pad_token_id or 0) - 1 if shifted else positions


def _copy_companions(where: Path, folder: Path, tokenizer: Any, config: Any) -> None:
    """The files beside a checkpoint; where its encoder got a new head, with that head's `config`."""
    if config is not None:
        config.save_pretrained(str(folder))
    for name in COMPANIONS:
        if config is not None and name in _OLD_HEAD:
            continue
        target = folder / name
        if (where / name).is_file() and (where / name).resolve() != target.resolve():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(where / name, target)
    if tokenizer is not None and not (folder / "tokenizer.json").is_file():
        tokenizer.save_pretrained(str(folder))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print progress and warnings that mean nothing to a user of bqc."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        sink = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]

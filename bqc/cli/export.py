"""``bqc export``: a Hugging Face model as ONNX."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bqc.cli.common import FILE, Settings, common_options, emit_json, examples, say, seed_option

__all__ = ["command"]

SCHEMA_VERSION = 1


@click.command(
    "export",
    epilog=examples(
        "bqc export ./my-classifier -o model.onnx",
        "bqc export sentence-transformers/all-MiniLM-L6-v2 -o minilm/ --task embedding",
        "bqc export sentence-transformers/all-MiniLM-L6-v2 -o tags/ --new-head conll03",
    ),
)
@click.argument("source", metavar="DIR|HUB-ID")
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    metavar="FILE|DIR",
    help="File, or folder that gets model.onnx.",
)
@click.option(
    "--task",
    type=click.Choice(
        ["classification", "token-classification", "question-answering", "masked-lm", "embedding"]
    ),
    help="Head to export. [default: as the checkpoint says]",
)
@click.option("--exporter", type=click.Choice(["dynamo", "torchscript"]), default="dynamo", show_default=True)
@click.option("--opset", type=int, metavar="N", help="ONNX opset. [default: 18, torchscript 17]")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls", "pooler", "none"]),
    help="What an embedding is made of. [default: as the checkpoint says, else mean]",
)
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Scale embeddings to length 1. [default: as the checkpoint says]",
)
@click.option(
    "--weights", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True, help="Storage."
)
@click.option("--attention", type=click.Choice(["eager", "sdpa"]), default="eager", show_default=True)
@click.option(
    "--new-head",
    metavar="TASK|LABELS",
    help="Random head to train: of a task as in bqc eval, or for labels (spam,ham).",
)
@seed_option
@common_options
def command(
    settings: Settings,
    source: str,
    output: Path,
    task: str | None,
    exporter: str,
    opset: int | None,
    pooling: str | None,
    normalize: bool | None,
    weights: str,
    attention: str,
    new_head: str | None,
    seed: int,
) -> None:
    """Write a BERT-family checkpoint as float ONNX, checked against torch, tokenizer and config beside it.

    Needs the extra bqc[export].
    """
    from bqc.export import export

    # The choices above are export's own literals.
    result = export(
        source,
        output,
        task=task,  # type: ignore[arg-type]
        opset=opset,
        exporter=exporter,  # type: ignore[arg-type]
        pooling=pooling,  # type: ignore[arg-type]
        normalize=normalize,
        weights=weights,  # type: ignore[arg-type]
        attention=attention,  # type: ignore[arg-type]
        new_head=new_head,
        seed=seed,
    )
    if settings.json:
        emit_json(SCHEMA_VERSION, asdict(result))
        return
    say(settings, f"{result.task}: {', '.join(result.inputs)} -> {', '.join(result.outputs)}")
    say(settings, f"{result.parameters / 1e6:.1f} M parameters, {result.file_bytes / 2**20:.1f} MiB")
    say(settings, f"largest difference from torch {result.max_diff:.2g}")
    say(settings, str(result.path))

"""Files that optimum writes: run by the Python of an environment that has optimum-onnx (and no bqc).

    OPTIMUM_VENV/bin/python -m tools.other_exporters.optimum_files FILES

Tiny random checkpoints of tests/support/families.py go through `optimum-cli export onnx`'s own function.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.support.families import FAMILIES, VOCABULARY, draw_weights
from tools.other_exporters.folder import Folder

TASKS = {
    "classification": ("AutoModelForSequenceClassification", "text-classification"),
    "tokens": ("AutoModelForTokenClassification", "token-classification"),
    "question-answering": ("AutoModelForQuestionAnswering", "question-answering"),
    "masked-lm": ("AutoModelForMaskedLM", "fill-mask"),
    "bare": ("AutoModel", "feature-extraction"),
}
SUPPORTED = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "albert")
OPTIMIZED = ("bert", "distilbert", "roberta", "electra", "albert")


def main() -> None:
    """Export every family with every task, and some at every optimization level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = Folder(parser.parse_args().folder, "optimum-onnx", "torch", "transformers", "onnxruntime")
    with tempfile.TemporaryDirectory() as name:
        for family in SUPPORTED:
            for head in TASKS:
                folder.add("optimum", family, head, lambda f, h: _export(Path(name), f, h))
        for level in ("O1", "O2", "O3", "O4"):
            for family in OPTIMIZED:
                for head in ("classification", "bare"):
                    folder.add(
                        f"optimum-{level}", family, head, lambda f, h, o=level: _export(Path(name), f, h, o)
                    )


def _export(root: Path, family: str, head: str, level: str | None = None) -> Path:
    import torch
    import transformers
    from optimum.exporters.onnx import main_export

    factory, task = TASKS[head]
    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **settings)
    network = getattr(transformers, factory).from_config(config)
    draw_weights(network)
    checkpoint = root / f"{family}-{head}"
    network.save_pretrained(checkpoint)
    output = root / f"{family}-{head}-{level}"
    main_export(str(checkpoint), str(output), task=task, optimize=level, do_validation=False)
    assert config.vocab_size == VOCABULARY
    return output / "model.onnx"


if __name__ == "__main__":
    main()

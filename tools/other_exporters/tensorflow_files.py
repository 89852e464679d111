"""Files that tf2onnx writes from TensorFlow's BERTs: run by an environment with tensorflow, tf-keras, tf2onnx
and transformers 4 (and no bqc).

    TENSORFLOW_VENV/bin/python -m tools.other_exporters.tensorflow_files FILES
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.support.families import FAMILIES
from tools.other_exporters.folder import Folder

HEADS = {
    "classification": "TFAutoModelForSequenceClassification",
    "tokens": "TFAutoModelForTokenClassification",
    "question-answering": "TFAutoModelForQuestionAnswering",
    "masked-lm": "TFAutoModelForMaskedLM",
    "bare": "TFAutoModel",
}
SUPPORTED = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "albert")
OPSETS = (10, 11, 12, 13, 14, 15, 16, 17, 18)


def main() -> None:
    """Export every family with every head at one opset, and BERT at each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = Folder(parser.parse_args().folder, "tf2onnx", "tensorflow-cpu", "transformers")
    with tempfile.TemporaryDirectory() as name:
        for family in SUPPORTED:
            for head in HEADS:
                folder.add("tf2onnx-13", family, head, lambda f, h: _export(Path(name), f, h, 13))
        for opset in OPSETS:
            for head in ("classification", "bare"):
                folder.add(
                    f"tf2onnx-{opset}", "bert", head, lambda f, h, o=opset: _export(Path(name), f, h, o)
                )
        folder.add("tf2onnx-fixed", "bert", "bare", lambda f, h: _export(Path(name), f, h, 13, (2, 16)))
        folder.add("tf2onnx-sequence", "bert", "bare", lambda f, h: _export(Path(name), f, h, 13, (None, 16)))


def _export(root: Path, family: str, head: str, opset: int, sizes: tuple[Any, Any] = (None, None)) -> Path:
    import numpy as np
    import tensorflow as tf
    import tf2onnx
    import transformers

    kind, settings = FAMILIES[family]
    config = transformers.AutoConfig.for_model(kind, **settings)
    network = getattr(transformers, HEADS[head]).from_config(config)
    names = ["input_ids", "attention_mask"]
    if getattr(config, "type_vocab_size", 0) > 1 and family != "mpnet":
        names.append("token_type_ids")
    network({name: tf.ones((2, 7), tf.int32) for name in names})
    rng = np.random.default_rng(0)
    for variable in network.weights:
        norm = "norm" in variable.name.lower() and "gamma" in variable.name
        variable.assign(rng.normal(float(norm), 0.1, variable.shape))
    signature = [tf.TensorSpec(sizes, tf.int32, name=name) for name in names]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def run(*values: Any) -> Any:
        found = network(dict(zip(names, values, strict=True)), training=False)
        if head == "bare":
            return {"last_hidden_state": found.last_hidden_state}
        if head == "question-answering":
            return {"start_logits": found.start_logits, "end_logits": found.end_logits}
        return {"logits": found.logits}

    path = root / f"{family}-{head}-{opset}.onnx"
    tf2onnx.convert.from_function(run, input_signature=signature, opset=opset, output_path=str(path))
    return path


if __name__ == "__main__":
    main()

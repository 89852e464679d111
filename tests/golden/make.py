"""Write the golden artifacts of this format version: run once a release, never to make a test pass."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import bqc
from bqc.artifact import FORMAT_VERSION
from bqc.ir.synthetic import canonical_bert

HERE = Path(__file__).parent
OPTIONS: dict[str, dict[str, Any]] = {
    "bbct": {"weight_bits": 4, "embedding_bits": 6, "block": 32},
    "binarybert": {"weights": "two-plane", "activation_bits": 6},
}
"""Of each scheme."""


def main() -> None:
    made = [make(scheme) for scheme in OPTIONS]
    if not any(made):
        sys.exit("all of them exist: a released artifact is never replaced")


def make(scheme: str) -> bool:
    """Whether the scheme's artifact was written."""
    path = HERE / f"{scheme}-{FORMAT_VERSION}.onnx"
    if path.exists():
        return False
    model = canonical_bert(layers=2, hidden=48, heads=2, ffn=80, gelu="tanh")
    bqc.compile(model, scheme, path, single_file=True, **OPTIONS[scheme])
    rng = np.random.default_rng(0)
    mask = np.ones((3, 9), np.int64)
    mask[0, 5:] = 0
    mask[1, :3] = 0
    feeds = {
        "input_ids": rng.integers(0, 100, (3, 9)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (3, 9)),
    }
    logits = bqc.session(path, library=False).run(None, feeds)[0]
    np.savez(path.with_suffix(".npz"), logits=logits, **feeds)
    return True


if __name__ == "__main__":
    main()

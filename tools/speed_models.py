"""Makes the models of the speed tables: BERT-base with random weights, exported by torch, and what is compiled of it.

    python -m tools.speed_models FOLDER

Weights are quantised or pruned in one step, without training: for speed, not accuracy. `base.onnx` is the float model
of width 768, `half.onnx` that of half the width. The others are named as in docs/results.md: bbct, w4, w3, w2 (its
weights in as many bits); b8, b6, b4 (one plane of signs, activations in as many bits), t8 (two planes), h8, h4 (of half
width); xnor (FFNs of signs by signs), sparse8 and sparse4 (2:4, codes of as many bits).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
import transformers

import bqc
from bqc.export import export
from bqc.formats import Sparse, Xnor
from bqc.formats.stored import WeightFormat
from bqc.ir import import_model
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.slim_width import SlimWidth
from bqc.plan import Plan

BITS: dict[str, dict[str, Any]] = {
    "bbct": {},
    **{f"w{bits}": {"weight_bits": bits} for bits in (4, 3, 2)},
}
SIGNS: dict[str, dict[str, Any]] = {
    **{f"b{bits}": {"weights": "binary", "activation_bits": bits} for bits in (8, 6, 4)},
    "t8": {"weights": "two-plane"},
}
HALF: dict[str, dict[str, Any]] = {
    f"h{bits}": {"weights": "two-plane", "activation_bits": bits} for bits in (8, 4)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    base, half = make_base(folder), folder / "half.onnx"
    slim, _ = import_model(base)
    ir.save(SlimWidth(width=0.5)(slim).model, half, external_data="half.onnx.data")
    for source, models, scheme in (
        (base, BITS, "bbct"),
        (base, SIGNS, "binarybert"),
        (half, HALF, "binarybert"),
    ):
        for name, options in models.items():
            print(bqc.compile(source, output=folder / f"{name}.onnx", scheme=scheme, **options).paths[0])
    for name, plan in recipes(base).items():
        print(bqc.compile(base, output=folder / f"{name}.onnx", recipe=plan).paths[0])


def make_base(folder: Path) -> Path:
    """The float model: a classifier of two classes."""
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(transformers.BertConfig()).save_pretrained(folder / "bert")
    return export(folder / "bert", folder / "base.onnx", "classification").path


def recipes(base: Path) -> dict[str, Plan]:
    """bbct with other weights in the layers."""
    model, _ = import_model(base)
    PlanBbct()(model)
    plan = Plan.of(model)

    def changed(made: dict[str, WeightFormat]) -> Plan:
        return Plan(plan.scheme, {**plan.weights, **made}, plan.activations)

    layers = [key for key in plan.weights if key.split(":")[0].isdigit()]
    return {
        "xnor": changed({key: Xnor("row") for key in layers if ":ffn." in key}),
        **{
            f"sparse{bits}": changed(
                {
                    key: Sparse(2, 4, bits, group=64 if key.endswith("attention.output") else 0)
                    for key in layers
                }
            )
            for bits in (8, 4)
        },
    }


if __name__ == "__main__":
    main()

"""How far ternary weight splitting moves the logits of a model, in float64: by rounding, if its formulas are right.

    python -m tools.measure_split models/minilm-l6-sst2/model.onnx

The model's weights are made ternary by scheme binarybert and split (pass split-ternary), without any training, and
torch runs both in float64 on random ids: with the latent weights, with the quantised ones, and with quantised
activations too. Largest difference of a logit, as a part of the largest logit. `ternary` tells how far the ternary
model is from the float one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from bqc.formats.stored import WeightFormat
from bqc.ir import import_model
from bqc.passes.split_ternary import SplitTernary
from bqc.plan import Plan
from bqc.schemes.binarybert import Binarybert
from bqc.train import module
from tools.measure_common import arguments, report

Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--table-scales", default="fp16", choices=["fp16", "fp32"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)
    model, _ = import_model(options.model)
    _widen(model)
    scheme = Binarybert(table_scales=options.table_scales)
    for one in scheme.plan():
        one(model)
    split = model.clone()
    SplitTernary()(split)
    feeds = _feeds(model, options.batch, options.length)

    def runs(one: ir.Model) -> tuple[Floats, ...]:
        weights, simulated = Plan.of(one).weights, one.clone()
        for step in scheme.simulate():
            step(simulated)
        return tuple(_logits(*run, feeds) for run in ((one, {}), (one, weights), (simulated, weights)))

    before, after = runs(model), runs(split)
    names = ("latent", "quantised weights", "and activations")
    found = {name: _apart(b, a) for name, b, a in zip(names, before, after, strict=True)}
    found["ternary"] = _apart(before[0], before[1])
    rows = [(name, f"{value:.2g}") for name, value in found.items()]
    report(("", "apart"), rows, {"model": str(options.model), **found}, options.json)


def _widen(model: ir.Model) -> None:
    """Every weight, bias, gamma and beta in float64."""
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.shape and value.const_value is not None:
            data = value.const_value.numpy().astype(np.float64)
            value.const_value, value.dtype = ir.Tensor(data, name=value.name), ir.DataType.DOUBLE


def _feeds(model: ir.Model, batch: int, length: int) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    every = {
        "input_ids": random.integers(0, 1000, (batch, length)),
        "token_type_ids": np.zeros((batch, length), np.int64),
        "attention_mask": (np.arange(length) < random.integers(1, length + 1, (batch, 1))).astype(np.int64),
    }
    return {value.name: torch.from_numpy(every[value.name]) for value in model.graph.inputs if value.name}


def _logits(model: ir.Model, weights: dict[str, WeightFormat], feeds: dict[str, Any]) -> Floats:
    ready = module(model, weights=weights).double().eval()
    with torch.no_grad():
        result: Floats = ready(**feeds)[ready.output_names[0]].numpy()
    return result


def _apart(wanted: Floats, found: Floats) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


if __name__ == "__main__":
    main()

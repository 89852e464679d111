"""Which quantisation point costs what: the loss of W8/A8 attributed point by point.

    python -m tools.measure_points models/minilm-l6-sst2/model.onnx --task sst2 --data DATA

Starts from everything quantised and leaves one kind of point float in all layers ("without"), and from the float
model and quantises one kind only ("alone"). Besides the task's metric it gives two figures with far less noise: the
mean squared error of the outputs against the float model and the number of rows whose argmax differs from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bqc.passes._points import LAYER_POINTS
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.quantize_weights import QuantizeWeights
from bqc.plan import Plan
from bqc.schemes.bbct import Bbct
from tools.measure_common import Scorer, Scores, arguments, build, mean_error, quiet_fallback, report, scratch

POINTS = ("embedding.norm", *LAYER_POINTS, "pooler")
TABLES = "embedding tables"
LINEARS = "linear weights"


class Keep(ir.passes.InPlacePass):
    """Strike from the plan whatever is not of the wanted kinds."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        plan = Plan.of(model)
        plan.weights = {key: fmt for key, fmt in plan.weights.items() if self._wanted(weight_kind(key))}
        plan.activations = {
            key: fmt for key, fmt in plan.activations.items() if self._wanted(key.split(":")[1])
        }
        plan.attach(model)
        return ir.passes.PassResult(model, True)


def weight_kind(key: str) -> str:
    """The name here of a weight's kind."""
    return TABLES if key.startswith("embedding:") else LINEARS


def compared(name: str, found: Scores, float_: Scores, regression: bool) -> dict[str, Any]:
    """One row of numbers."""
    flips = 0 if regression else int((found.outputs.argmax(1) != float_.outputs.argmax(1)).sum())
    return {"what": name, **found.metrics, "mse": mean_error(found, float_), "flips": flips}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("model", type=Path, help="float .onnx file, tokenizer beside it")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", help="folder of the task's files [default: BQC_DATA, else the hub]")
    parser.add_argument("--limit", type=int, help="the first N rows only")
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--activation-bits", type=int, default=8)
    parser.add_argument("--block", type=int, default=64)
    options = parser.parse_args()
    quiet_fallback()
    scorer = Scorer(options.task, options.data, options.model.parent, options.threads, options.limit)
    base = scorer(options.model)
    first = scorer.task.metrics[0]
    plan = PlanBbct(options.weight_bits, activation_bits=options.activation_bits, block=options.block)
    lower = Bbct().lower()
    weights_only = [QuantizeWeights(), *lower[-2:]]
    results = [compared("float", base, base, scorer.task.regression)]

    def measure(name: str, wanted: Callable[[str], bool], passes: list[ir.passes.InPlacePass]) -> None:
        path = build(options.model, [plan, Keep(wanted), *passes], Path(folder) / "model.onnx")
        results.append(compared(name, scorer(path), base, scorer.task.regression))
        print(results[-1], flush=True)

    kinds = (LINEARS, TABLES, *POINTS)
    with scratch() as folder:
        measure("everything", lambda kind: True, lower)
        for kind in kinds:
            measure(f"without {kind}", lambda other, kind=kind: other != kind, lower)
        measure("weights alone", lambda kind: kind in (LINEARS, TABLES), weights_only)
        measure("activations alone", lambda kind: kind in POINTS, lower)
        for kind in kinds:
            measure(f"{kind} alone", lambda other, kind=kind: other == kind, lower)
    whole = results[1]["mse"]
    rows = [
        [
            result["what"],
            f"{result[first]:.2f}",
            f"{result[first] - results[0][first]:+.2f}",
            f"{1e6 * result['mse']:.0f}",
            f"{100 * result['mse'] / whole:.0f} %",
            str(result["flips"]),
        ]
        for result in results
    ]
    print(f"\n{scorer.task.title}, {len(scorer)} rows, W{options.weight_bits} A{options.activation_bits}")
    columns = ["quantised", first, "change", "output MSE x 1e6", "of everything", "argmax flips"]
    report(columns, rows, results, options.json)


if __name__ == "__main__":
    main()

"""The thesis of BBCT as a table: one exponent a tensor, a row, or 256 to 32 elements, at 8, 6 and 4 bits.

    python -m tools.measure_blocks mrpc/model.onnx:mrpc stsb/model.onnx:stsb --data ../shared/data

"weights" quantises every linear and lookup table and leaves activations float; "all" quantises the points between
operators as well, with as many bits. No retraining, no calibration. Every cell is the same graph of quantise and
dequantise pairs around float operators, so that only the format differs: in compiled models attention blocks never
cross a head besides. Where a cell says so it is literal: "tensor" is one exponent for the whole batch. Exceptions:
values keep at least one exponent per sequence and head, the head's small weights and the softmax codes 8 bits.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bqc.passes.attach_functions import AttachFunctions
from bqc.passes.finalize import Finalize
from bqc.passes.plan_bbct import PlanBbct
from bqc.passes.quantize_activations import QuantizeActivations
from bqc.passes.quantize_weights import QuantizeWeights
from bqc.plan import Plan
from tools.measure_common import Scorer, arguments, build, quiet_fallback, report, scratch

BLOCKS: tuple[int | str, ...] = ("tensor", "row", 256, 128, 64, 32)
BITS = (8, 6, 4)


class AcrossHeads(ir.passes.InPlacePass):
    """Let blocks cross heads: with a smallest group of a head, a row would have many exponents."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        plan = Plan.of(model)
        plan.weights = {key: replace(fmt, group=0) for key, fmt in plan.weights.items()}
        plan.activations = {
            key: fmt if key.endswith(":attention.value") else replace(fmt, group=0)
            for key, fmt in plan.activations.items()
        }
        plan.attach(model)
        return ir.passes.PassResult(model, True)


def passes(bits: int, block: int | str, activations: bool) -> list[ir.passes.InPlacePass]:
    """From the float model to the one with pairs."""
    middle = [QuantizeActivations()] if activations else []
    plan = PlanBbct(weight_bits=bits, activation_bits=bits, block=block)
    return [plan, AcrossHeads(), QuantizeWeights(), *middle, AttachFunctions(), Finalize()]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL:TASK", help="float .onnx file and its task")
    parser.add_argument("--data", help="folder of the tasks' files [default: BQC_DATA, else the hub]")
    parser.add_argument("--limit", type=int, help="the first N rows only")
    options = parser.parse_args()
    quiet_fallback()
    rows: list[list[str]] = []
    numbers: list[dict[str, Any]] = []
    for text in options.models:
        name, _, task = text.rpartition(":")
        source = Path(name)
        scorer = Scorer(task, options.data, source.parent, options.threads, options.limit)
        first = scorer.task.metrics[0]
        base = scorer(source).metrics[first]
        title = f"{scorer.task.title} {first}"
        rows.append([title, "float", "", f"{base:.1f}", *[""] * (len(BLOCKS) - 1)])
        with scratch() as folder:
            for activations in (False, True):
                for bits in BITS:
                    cells = []
                    for block in BLOCKS:
                        path = build(source, passes(bits, block, activations), Path(folder) / "model.onnx")
                        found = scorer(path).metrics[first]
                        cells.append(found)
                        what = "all" if activations else "weights"
                        numbers.append({"task": task, "what": what, "bits": bits, "block": block, first: found})
                        print(numbers[-1], file=sys.stderr, flush=True)
                    rows.append([title, what, str(bits), *[f"{cell:.1f}" for cell in cells]])
    columns = ["task", "quantised", "bits", *[f"{b}" for b in BLOCKS]]
    report(columns, rows, numbers, options.json)


if __name__ == "__main__":
    main()

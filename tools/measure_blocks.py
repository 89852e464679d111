"""The thesis of BBCT as a table: one exponent a tensor, a row, or 256 to 32 elements, at 8, 6 and 4 bits.

    python -m tools.measure_blocks mrpc/model.onnx:mrpc stsb/model.onnx:stsb --data DATA

"weights" quantises every linear and lookup table and leaves activations float; "all" quantises the points between
operators as well, with as many bits. No retraining, no calibration. A cell is the task's metric; a second table has
the mean squared error of the outputs against the float model, which orders formats with far less noise.

Every cell is the same graph of quantise and dequantise pairs around float operators, so that only the format
differs, and means what it says: attention blocks may cross heads here, as they never do in compiled models, and
"tensor" is one exponent for a whole batch (of 16, sorted by length). Exceptions: values keep at least one exponent
per sequence and head, and the head's small weights and the softmax codes keep 8 bits.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
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
from tools.measure_common import Scorer, arguments, build, mean_error, quiet_fallback, report, scratch

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


def variants(
    source: Path, scorer: Scorer, kinds: list[str], blocks: list[int | str]
) -> Iterator[dict[str, Any]]:
    """A row of numbers for the float model (block None) and for every format."""
    first = scorer.task.metrics[0]
    base = scorer(source)
    yield {"what": "float", "bits": 32, "block": None, first: base.metrics[first], "mse": 0.0}
    with scratch() as folder:
        for what, bits, block in itertools.product(kinds, BITS, blocks):
            path = build(source, passes(bits, block, what == "all"), Path(folder) / "model.onnx")
            # Kernels refuse rows as long as a whole batch; the function bodies take them.
            scores = scorer(path, library=block != "tensor")
            found = {first: scores.metrics[first], "mse": mean_error(scores, base)}
            yield {"what": what, "bits": bits, "block": block, **found}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL:TASK", help="float .onnx file and its task")
    parser.add_argument("--data", help="folder of the tasks' files [default: BQC_DATA, else the hub]")
    parser.add_argument("--limit", type=int, help="the first N rows only")
    parser.add_argument("--batch-size", type=int, default=16, help="matters to tensor activations only")
    parser.add_argument("--what", nargs="+", choices=("weights", "all"), default=["weights", "all"])
    parser.add_argument("--blocks", nargs="+", default=[str(b) for b in BLOCKS], metavar="BLOCK")
    options = parser.parse_args()
    quiet_fallback()
    blocks: list[int | str] = [int(b) if b.isdigit() else b for b in options.blocks]
    metrics: list[list[str]] = []
    errors: list[list[str]] = []
    numbers: list[dict[str, Any]] = []
    for text in options.models:
        name, _, task = text.rpartition(":")
        source = Path(name)
        known = options.threads, options.limit, options.batch_size
        scorer = Scorer(task, options.data, source.parent, *known)
        first = scorer.task.metrics[0]
        for found in variants(source, scorer, options.what, blocks):
            numbers.append({"task": task, **found})
            print(numbers[-1], file=sys.stderr, flush=True)
            title = [scorer.task.title, found["what"], str(found["bits"])]
            if found["block"] in (None, blocks[0]):
                metrics.append([*title])
                errors.append([*title])
            metrics[-1].append(f"{found[first]:.1f}")
            errors[-1].append(f"{found['mse']:.2g}")
    columns = ["task", "quantised", "bits", *map(str, blocks)]
    for title, rows in (("metric", metrics), ("mean squared error of the outputs", errors)):
        print(f"\n{title}")
        report(columns, [row + [""] * (len(columns) - len(row)) for row in rows], numbers, options.json)


if __name__ == "__main__":
    main()

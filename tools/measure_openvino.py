"""Compiled models beside OpenVINO's int8 of the same float model.

    pip install openvino nncf
    python -m tools.measure_openvino base.onnx bbct.onnx w1a8.onnx --threads 2 --json openvino.json

OpenVINO's model is NNCF's post-training quantisation for transformers, calibrated on random tokens: this is speed,
not accuracy.
Engines alternate in blocks as in `bqc bench`, ONNX Runtime's fused float32 is the reference, and OpenVINO chooses the
precision of what is not int8 by itself (bfloat16 where the CPU has it).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bqc.bench.engines import find_engines, vocabulary
from bqc.bench.latency import summarize
from bqc.bench.schedule import Plan, Run, alternate
from bqc.bench.workload import Vocabulary, full
from bqc.runtime.inputs import Batch, EncoderInputs
from bqc.runtime.session import session
from bqc.runtime.specs import specs_of
from tools.measure_common import arguments, report, scratch

CALIBRATION_ROWS = 32
CALIBRATION_TOKENS = 128


def openvino_int8(path: Path, inputs: EncoderInputs, known: Vocabulary, threads: int | None) -> Any:
    """The float model at ``path``, quantised by NNCF and compiled by OpenVINO for this CPU."""
    import nncf
    import openvino

    def batches() -> Iterator[dict[str, Any]]:
        for seed in range(CALIBRATION_ROWS):
            yield dict(inputs.feeds(full((1, CALIBRATION_TOKENS), known, seed).batches[0]))

    model = nncf.quantize(
        openvino.Core().read_model(path),
        nncf.Dataset(list(batches())),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=CALIBRATION_ROWS,
    )
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return openvino.compile_model(model, "CPU", options)


def runner(infer: Any, inputs: EncoderInputs, batches: list[Batch]) -> Run:
    """What runs an engine whose `infer` takes named arrays."""
    feeds = [dict(inputs.feeds(batch)) for batch in batches]

    def run(index: int) -> None:
        infer(feeds[index])

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("source", type=Path, help="the float .onnx file")
    parser.add_argument("models", type=Path, nargs="+", help="compiled .onnx files")
    parser.add_argument("--shapes", nargs="+", default=["1x16", "1x128", "8x128"], metavar="BxS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of steady runs in a block, at least 3")
    options = parser.parse_args()
    plan = Plan(options.rounds, options.seconds)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    with scratch() as folder:
        engines = find_engines(options.models, ["ort-fp32", "ort-int8"], options.source, Path(folder), say)
        sessions = {engine.name: session(engine.path, threads=options.threads) for engine in engines}
        first = engines[-1]
        specs = specs_of([*sessions.values()], first.path)
        inputs = {name: EncoderInputs.of(one, specs) for name, one in sessions.items()}
        known = vocabulary(first.path, inputs[first.name])
        say("quantising for OpenVINO")
        openvino = openvino_int8(
            options.source, inputs["ort-fp32"], known, options.threads
        ).create_infer_request()

        rows, numbers = [], []
        for shape in options.shapes:
            batch, length = map(int, shape.split("x"))
            workload = full((batch, length), known, 0)
            say(f"timing {workload.name}")
            runs = {
                name: runner(lambda feeds, one=one: one.run(None, feeds), inputs[name], workload.batches)
                for name, one in sessions.items()
            }
            runs["openvino-int8"] = runner(openvino.infer, inputs["ort-fp32"], workload.batches)
            blocks = alternate(runs, plan, len(workload.batches))
            found = summarize(blocks, "ort-fp32", len(workload.batches), workload.tokens)
            other = next(one for one in found if one.engine == "openvino-int8")
            for one in found:
                rows.append(
                    [
                        workload.name,
                        one.engine,
                        f"{one.steady_ms:.1f}",
                        f"{one.ratio:.2f}x",
                        f"{one.ratio_min:.2f}-{one.ratio_max:.2f}",
                        f"{other.steady_ms / one.steady_ms:.2f}x",
                    ]
                )
                numbers.append({"workload": workload.name, **dataclasses.asdict(one)})
    report(["batch x tokens", "engine", "ms", "to fp32", "range", "to OpenVINO"], rows, numbers, options.json)


if __name__ == "__main__":
    main()

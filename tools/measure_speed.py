"""Speed of compiled BERT-base beside ONNX Runtime's own engines, in alternating blocks.

    python -m tools.measure_speed --threads 2 --json speed.json

The model is BERT-base with random weights, exported by torch (or any float file, with --model). Engines: ONNX Runtime
float32 after its transformer fusion, its dynamic int8 of that fused model, and bbct at W8 and W4, block 64. Engines
that run in turns steal each other's cores and caches, so they alternate in blocks: a pause of 0.1 s, two warm-up runs,
n runs, next engine, three rounds. "steady" is the median of a block's n runs, then of the rounds; "cold" is the first
run of a block, right after another engine. Ratios are to float32 in the same round, with their smallest and largest.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import bqc
from bqc.export import export
from tools.measure_common import arguments, report, scratch

PAUSE = 0.1
WARM_UPS = 2
ENGINES = ("fp32 fused", "int8 dynamic", "bbct W8 b64", "bbct W4 b64")


def random_bert(folder: Path) -> Path:
    """BERT-base with two classes and random weights, exported by torch."""
    import transformers

    transformers.set_seed(0)
    transformers.BertForSequenceClassification(transformers.BertConfig()).save_pretrained(folder / "bert")
    path = folder / "bert.onnx"
    export(folder / "bert", path, task="classification", exporter="torchscript")
    return path


def prepare(model: Path, folder: Path, heads: int, hidden: int) -> dict[str, Path]:
    """The files of the engines; says on stderr what the fusion found."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    paths = {engine: folder / f"{engine.replace(' ', '-')}.onnx" for engine in ENGINES}
    fused, int8, w8, w4 = paths.values()
    options = FusionOptions("bert")
    optimize_model(
        str(model), "bert", heads, hidden, opt_level=0, optimization_options=options
    ).save_model_to_file(str(fused), use_external_data_format=True)
    found = Counter(node.op_type for node in onnx.load(fused, load_external_data=False).graph.node)
    print(f"fused: {dict(found.most_common())}", file=sys.stderr)
    quantize_dynamic(
        str(fused),
        str(int8),
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    bqc.compile(model, output=w8, weight_bits=8, block=64)
    bqc.compile(model, output=w4, weight_bits=4, block=64)
    return paths


def feeds(session: onnxruntime.InferenceSession, batch: int, length: int, vocab: int) -> dict[str, Any]:
    """Random tokens without padding."""
    rng = np.random.default_rng(0)
    known = {
        "input_ids": rng.integers(0, vocab, (batch, length), dtype=np.int64),
        "attention_mask": np.ones((batch, length), np.int64),
        "token_type_ids": np.zeros((batch, length), np.int64),
    }
    return {value.name: known[value.name] for value in session.get_inputs()}


def block(session: onnxruntime.InferenceSession, data: dict[str, Any], runs: int) -> tuple[float, float]:
    """(cold, steady median) milliseconds of one engine's turn."""
    time.sleep(PAUSE)
    times = []
    for _ in range(WARM_UPS + runs):
        start = time.perf_counter()
        session.run(None, data)
        times.append(1e3 * (time.perf_counter() - start))
    return times[0], statistics.median(times[WARM_UPS:])


def compare(
    sessions: dict[str, onnxruntime.InferenceSession],
    shape: tuple[int, int],
    rounds: int,
    seconds: float,
    vocab: int,
) -> list[dict[str, Any]]:
    """Rows of numbers for one shape, in the order of the engines."""
    data = {engine: feeds(session, *shape, vocab) for engine, session in sessions.items()}
    runs = {}
    for engine, session in sessions.items():
        block(session, data[engine], 1)
        runs[engine] = int(np.clip(1e3 * seconds / block(session, data[engine], 1)[1], 3, 100))
    turns: dict[str, list[tuple[float, float]]] = {engine: [] for engine in sessions}
    for _ in range(rounds):
        for engine, session in sessions.items():
            turns[engine].append(block(session, data[engine], runs[engine]))
    base = [steady for _, steady in turns[ENGINES[0]]]
    results = []
    for engine, found in turns.items():
        ratios = [b / steady for b, (_, steady) in zip(base, found, strict=True)]
        results.append(
            {
                "shape": f"{shape[0]}x{shape[1]}",
                "engine": engine,
                "runs": runs[engine],
                "steady_ms": statistics.median(steady for _, steady in found),
                "cold_ms": statistics.median(cold for cold, _ in found),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    return results


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=2)
    parser.add_argument("--model", type=Path, help="a float .onnx file instead of random BERT-base")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=30522, help="token ids are drawn below this")
    parser.add_argument("--shapes", nargs="+", default=["1x16", "1x128", "8x128"], metavar="BxS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of steady runs in a block, at least 3 runs"
    )
    options = parser.parse_args()
    with scratch() as name:
        folder = Path(name)
        paths = prepare(options.model or random_bert(folder), folder, options.heads, options.hidden)
        sessions = {
            engine: bqc.session(path, strict=True, threads=options.threads) for engine, path in paths.items()
        }
        load_before = Path("/proc/loadavg").read_text().split()[0]
        results = []
        for text in options.shapes:
            batch, length = map(int, text.split("x"))
            results += compare(sessions, (batch, length), options.rounds, options.seconds, options.vocab)
    rows = [
        [
            found["shape"],
            found["engine"],
            f"{found['steady_ms']:.1f}",
            f"{found['ratio']:.2f}x",
            f"{found['ratio_min']:.2f}-{found['ratio_max']:.2f}",
            f"{found['cold_ms']:.1f}",
        ]
        for found in results
    ]
    print(f"{options.threads} threads, load average before: {load_before}")
    numbers = {"threads": options.threads, "load_before": float(load_before), "engines": results}
    columns = ["batch x tokens", "engine", "steady ms", "to fp32", "range", "cold ms"]
    report(columns, rows, numbers, options.json)


if __name__ == "__main__":
    main()

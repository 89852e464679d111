"""Speed of compiled BERT-base beside ONNX Runtime's own engines.

    python -m tools.measure_speed --threads 2 --json speed.json

The model is BERT-base with random weights, exported by torch (or any float file, with --model), and bbct at W8 and W4,
block 64, beside the baselines of `bqc bench`, which does the measuring; ratios are to float32 after ONNX Runtime's
transformer fusion.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bqc
from bqc.bench import Options, Plan, Watcher, bench
from bqc.bench.workload import Vocabulary, Workload, full
from bqc.export import export
from tools.measure_common import arguments, report, scratch

BASELINES = ("ort-fp32", "ort-int8", "ort-nbits4")


def random_bert(folder: Path) -> Path:
    """BERT-base with two classes and random weights, exported by torch."""
    import transformers

    transformers.set_seed(0)
    transformers.BertForSequenceClassification(transformers.BertConfig()).save_pretrained(folder / "bert")
    path = folder / "bert.onnx"
    export(folder / "bert", path, task="classification", exporter="torchscript")
    return path


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(threads=2)
    parser.add_argument("--model", type=Path, help="a float .onnx file instead of random BERT-base")
    parser.add_argument("--shapes", nargs="+", default=["1x16", "1x128", "8x128"], metavar="BxS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of steady runs in a block, at least 3 runs"
    )
    options = parser.parse_args()
    shapes = [tuple(map(int, text.split("x"))) for text in options.shapes]

    def workloads(vocabulary: Vocabulary) -> list[Workload]:
        return [full((batch, length), vocabulary, 0) for batch, length in shapes]

    with scratch() as name:
        folder = Path(name)
        source = options.model or random_bert(folder)
        models = [folder / f"bbct-w{bits}-b64.onnx" for bits in (8, 4)]
        for bits, path in zip((8, 4), models, strict=True):
            bqc.compile(source, output=path, weight_bits=bits, block=64)
        found = bench(
            models,
            workloads,
            Options(BASELINES, source, None, options.threads, Plan(options.rounds, options.seconds)),
            Watcher(say=lambda line: print(line, file=sys.stderr)),
        )
    for line in found.warnings:
        print(f"warning: {line}", file=sys.stderr)
    rows = [
        [
            workload.name,
            one.engine,
            f"{one.steady_ms:.1f}",
            f"{one.ratio:.2f}x",
            f"{one.ratio_min:.2f}-{one.ratio_max:.2f}",
            f"{one.cold_ms:.1f}",
        ]
        for workload in found.workloads
        for one in workload.engines
    ]
    print(f"{options.threads} threads, load average before: {found.machine.load_average:.2f}")
    columns = ["batch x tokens", "engine", "steady ms", "to fp32", "range", "cold ms"]
    report(columns, rows, found.to_dict(), options.json)


if __name__ == "__main__":
    main()

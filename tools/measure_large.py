"""A float encoder of more than 2 GB through `bqc compile` and one run: seconds and peak resident memory.

    python -m tools.measure_large [--folder /tmp] [--vocabulary 320000] [--layers 24] [--weight-bits 8]

The model has random weights (`bqc.ir.synthetic.canonical_bert`, hidden size 1024), written tensor by tensor. Every
step is a child process of its own, whose peak is measured; compiling must stay within 2.5 times the file. Exit status
1 if it does not. The files are deleted in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2.5
"""Peak resident memory of compiling, in sizes of the float file."""


def build(path: Path, layers: int, vocabulary: int) -> None:
    """Write the float model."""
    import onnx_ir as ir

    from bqc.ir.synthetic import canonical_bert

    model = canonical_bert(layers, 1024, 16, 4096, vocab=vocabulary, positions=514, lazy=True)
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    model.metadata_props.clear()
    ir.save(model, path, external_data=f"{path.name}.data")


def compile_(source: Path, target: Path, bits: int) -> None:
    """Compile it."""
    import bqc

    bqc.compile(source, output=target, weight_bits=bits)


def run(target: Path) -> None:
    """Run it once with every kernel."""
    import numpy as np

    import bqc

    session = bqc.session(target, strict=True)
    ids = np.arange(2 * 64, dtype=np.int64).reshape(2, 64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids % 2}
    (logits,) = session.run(None, feeds)
    assert np.isfinite(logits).all()


def measured(function: object, *arguments: object) -> tuple[float, float]:
    """Seconds, and peak resident memory in MiB, of a call in a process of its own."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function(*arguments)  # type: ignore[operator]
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{getattr(function, '__name__', function)} failed")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--vocabulary", type=int, default=320_000)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--weight-bits", type=int, default=8)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="bqc-large-", dir=options.folder) as name:
        source, target = Path(name) / "model.onnx", Path(name) / "model.bqc.onnx"
        steps = {"build": measured(build, source, options.layers, options.vocabulary)}
        size = sum(file.stat().st_size for file in Path(name).iterdir()) / 2**20
        steps["compile"] = measured(compile_, source, target, options.weight_bits)
        steps["run"] = measured(run, target)
        compiled = sum(file.stat().st_size for file in Path(name).glob("model.bqc.*")) / 2**20
    ratio = steps["compile"][1] / size
    rows = {step: {"seconds": round(s, 1), "peak_mib": round(mib)} for step, (s, mib) in steps.items()}
    print(json.dumps({"float_mib": round(size), "compiled_mib": round(compiled), **rows}, indent=2))
    print(f"peak of compiling: {ratio:.2f} x the float file, at most {LIMIT}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

"""`bqc diff` of a BERT-base and its compile: seconds and peak resident memory.

    python -m tools.measure_diff [--folder /tmp] [--layers 12]

The model has random weights (`bqc.ir.synthetic.canonical_bert`). Every step is a child process of its own, whose peak
is measured. Exit status 1 if comparing takes more than 15 s or 2 GB. The files are deleted in the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tools.measure_large import compile_, measured

SECONDS, MIB = 15.0, 2048.0


def build(path: Path, layers: int) -> None:
    """Write the float model."""
    import onnx_ir as ir

    from bqc.ir.synthetic import canonical_bert

    model = canonical_bert(layers, 768, 12, 3072, vocab=30522, positions=512)
    for item in (*model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    model.metadata_props.clear()
    ir.save(model, path, external_data=f"{path.name}.data")


def compare(a: Path, b: Path, *, run: bool = False) -> None:
    """Compare two files, and run them too if asked for."""
    from bqc.diff import InputChoice, diff

    assert diff(a, b, run=InputChoice(samples=8) if run else None).weights_same > 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bqc-diff-", dir=options.folder) as name:
        source, target = Path(name) / "model.onnx", Path(name) / "model.bqc.onnx"
        measured(build, source, options.layers)
        measured(compile_, source, target, 8)
        steps = {
            "float against compiled": measured(compare, source, target),
            "float against itself": measured(compare, source, source),
            "with tensors": measured(lambda: compare(source, target, run=True)),
        }
    rows = {step: {"seconds": round(s, 1), "peak_mib": round(mib)} for step, (s, mib) in steps.items()}
    print(json.dumps(rows, indent=2))
    seconds, mib = steps["float against compiled"]
    return int(seconds > SECONDS or mib > MIB)


if __name__ == "__main__":
    sys.exit(main())

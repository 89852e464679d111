"""File size of a compiled BERT-base, and where the bytes go.

    python -m tools.measure_size
    python -m tools.measure_size --head masked-lm

The model is `bqc.ir.synthetic.canonical_bert` at BERT-base's shape with pooler and a two-class head: random weights,
and random biases, all different (biases that are all zero would be stored once); or with a masked-language-model head,
whose decoder is the word table. Sizes are those of the files as written, in MiB; the ratio is to the 417.64 MiB of
BERT-base in float32.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir

import bqc
from bqc.ir import load
from bqc.ir.synthetic import canonical_bert
from bqc.passes._graph import PART_KEY
from tools.measure_common import arguments, report, scratch

MIB = 2**20
REFERENCE = 417.64
PARTS = ("codes", "exponents", "float", "padding", "graph", "files")
Configurations = dict[str, tuple[dict[str, Any], float | None]]
CLASSIFIER: Configurations = {
    "W8 b64": ({"weight_bits": 8, "block": 64}, 107.0),
    "W6 b64": ({"weight_bits": 6, "block": 64}, None),
    "W4, tables 4, b32": ({"weight_bits": 4, "block": 32}, None),
    "W4, tables 4, b64": ({"weight_bits": 4, "block": 64}, 55.0),
    "W4, tables 4, b128": ({"weight_bits": 4, "block": 128}, None),
    "W4, tables 4, b256": ({"weight_bits": 4, "block": 256}, 53.5),
    "W4, tables 4, row": ({"weight_bits": 4, "block": "row"}, None),
    "W4, tables 8, b64": ({"weight_bits": 4, "embedding_bits": 8, "block": 64}, None),
    "W3, tables 3, b64": ({"weight_bits": 3, "block": 64}, None),
    "W3, tables 8, b64": ({"weight_bits": 3, "embedding_bits": 8, "block": 64}, None),
}
MASKED_LM: Configurations = {
    "W8 b64": ({"weight_bits": 8, "block": 64}, None),
    "W4 b64": ({"weight_bits": 4, "block": 64}, None),
    "W4, tables 4, b64": ({"weight_bits": 4, "embedding_bits": 4, "block": 64}, None),
}
CONFIGURATIONS = {"classification": CLASSIFIER, "masked-lm": MASKED_LM}
"""Head -> label -> options, and the target in MiB."""


def bert_base(layers: int, head: Any) -> Any:
    """BERT-base's shape, random weights."""
    return canonical_bert(
        layers=layers, hidden=768, heads=12, ffn=3072, vocab=30522, positions=512, head=head
    )


def stored(path: Path) -> dict[str, int]:
    """Bytes of codes, exponents, float parameters, padding of the data file, and the graph itself."""
    groups: Counter[str] = Counter(codes=0, exponents=0, float=0)
    outside = 0
    for value in load(path).graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        part = value.metadata_props.get(PART_KEY)
        kind = "float" if part is None else "exponents" if part in ("exponents", "scales") else "codes"
        groups[kind] += tensor.nbytes
        outside += tensor.nbytes if isinstance(tensor, ir.ExternalTensor) else 0
    data = path.with_name(f"{path.name}.data").stat().st_size
    files = path.stat().st_size + data
    padding = data - outside
    return {**groups, "padding": padding, "graph": files - sum(groups.values()) - padding, "files": files}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=12, help="fewer for a trial")
    parser.add_argument("--head", choices=list(CONFIGURATIONS), default="classification")
    options = parser.parse_args()
    rows: list[list[str]] = []
    numbers: list[dict[str, Any]] = []
    for label, (settings, target) in CONFIGURATIONS[options.head].items():
        with scratch() as folder:
            path = Path(folder) / "model.onnx"
            bqc.compile(bert_base(options.layers, options.head), output=path, **settings)
            found = stored(path)
        mib = {name: size / MIB for name, size in found.items()}
        ratio = REFERENCE / mib["files"]
        judged = target is not None and options.layers == 12
        verdict = "" if not judged else f"<= {target} {'met' if mib['files'] <= target else 'MISSED'}"
        shown = [f"{mib[name]:.2f}" for name in PARTS]
        rows.append([label, *shown, f"{ratio:.3f}x", verdict])
        numbers.append({"configuration": label, **found, "ratio": ratio, "target_mib": target})
        print(rows[-1], file=sys.stderr, flush=True)
    columns = ["model", *PARTS, "ratio", "target"]
    report(columns, rows, numbers, options.json)


if __name__ == "__main__":
    main()

"""Every weight format against dense 8 bits, at the sizes of BERT-base's FFN.

    python -m tools.measure_break_even
    python -m tools.measure_break_even --formats 'Sparse(2,4,8)' 'BlockShift(4,64)' --shape 1x16 --shape 8x128

What `bqc compile --measure` says of a random BERT-base whose layers have their FFN in one format each, all else being 8
bits: times as fast as dense 8 bits, smallest to largest of the rounds in brackets.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import bqc
from bqc.cli.common import Shape
from bqc.formats.stored import weight_format
from bqc.ir.synthetic import canonical_bert
from bqc.passes.plan_bbct import PlanBbct
from bqc.plan import Plan
from tools.measure_common import arguments, report

FORMATS = (
    "BlockShift(4,64)",
    "BlockShift(2,64)",
    "Sparse(2,4,8)",
    "Sparse(1,4,8)",
    "Sparse(2,4,4)",
    "Ternary(row)",
    "Binary(row)",
    "Xnor(row)",
    "Half()",
    "Index8(tensor)",
)
ROLES = ("ffn.intermediate", "ffn.output")


def bert_base(layers: int) -> Any:
    """BERT-base's shape, random weights, a small vocabulary."""
    return canonical_bert(
        layers=layers, hidden=768, heads=12, ffn=3072, vocab=1000, positions=512, head="none"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT")
    parser.add_argument("--shape", action="append", metavar="BxS", help="default 1x16 and 1x128")
    options = parser.parse_args()
    shapes = [Shape().convert(text, None, None) for text in options.shape or ("1x16", "1x128")]
    model = bert_base(len(options.formats))
    planned = model.clone()
    PlanBbct()(planned)
    plan = Plan.of(planned)
    plan.weights.update(
        {f"{i}:{role}": weight_format(text) for i, text in enumerate(options.formats) for role in ROLES}
    )
    result = bqc.compile(model, recipe=plan, measure=shapes, threads=options.threads or 1, dry_run=True)
    found = result.break_even
    assert found is not None, "asked for"
    print(
        f"{found.machine.cpu}, {found.isa}, threads: {found.machine.threads}, "
        f"load average before: {found.machine.load_average:.2f}",
        file=sys.stderr,
    )
    sizes = dict.fromkeys((one.columns, one.outputs, one.rows) for one in found.speeds)
    heads = [f"{columns} x {outputs}, {rows} rows" for columns, outputs, rows in sizes]
    lines = []
    for text in options.formats:
        own = {(s.columns, s.outputs, s.rows): s for s in found.speeds if s.format == text}
        cells = [f"{own[at].ratio:.2f} ({own[at].ratio_min:.2f}-{own[at].ratio_max:.2f})" for at in sizes]
        lines.append([f"`{text}`", *cells])
    dense = {(s.columns, s.outputs, s.rows): s.dense_milliseconds for s in found.speeds}
    lines.append(["dense 8 bits, ms", *(f"{dense[at]:.3f}" for at in sizes)])
    report(["format", *heads], lines, [dataclasses.asdict(one) for one in found.speeds], options.json)


if __name__ == "__main__":
    main()

"""Operators over N:M-sparse weights."""

from __future__ import annotations

import numpy as np

from bqc.formats import Sparse
from bqc.formats.sparse import PATTERNS
from bqc.ops import reference
from tests.support.op_cases.case import Array, Case, Sizes

__all__ = ["sparse_cases"]


def sparse_cases(s: Sizes, rng: np.random.Generator, blocks: list[Case]) -> list[Case]:
    """The operators over N:M-sparse weights, with the inputs of those over blocks but for the weights."""
    named = {case.op: case for case in blocks if case.attributes.get("group", 0) == 0}
    kept, of = PATTERNS[s.seed % 4]
    weight = {"kept": kept, "of": of, "bits": 8 if s.bits > 4 else 4}
    layout = {"layout": "n16s4"}

    def parts(n: int, k: int, group: int = 0) -> tuple[Sparse, dict[str, Array]]:
        fmt = Sparse(**weight, group=group)
        found = fmt.quantized(rng.standard_normal((n, k)).astype(np.float32))
        found["codes"][rng.random((n, k)) < 0.1] = 0
        found["scales"] = (rng.standard_normal(n) * 0.1 * (np.arange(n) % 7 > 0)).astype(np.float32)
        return fmt, found

    def tiles(n: int, k: int, group: int = 0) -> list[Array]:
        fmt, found = parts(n, k, group)
        return list(fmt.tiles(found)[0].values())

    def linear(name: str) -> Case:
        """The case of ``BlockLinear<name>`` with another weight."""
        case = named[f"BlockLinear{name}"]
        inputs = [*case.inputs[:2], *tiles(len(case.inputs[4]), case.inputs[0].shape[-1]), *case.inputs[4:]]
        return Case(
            f"SparseLinear{name}", inputs, {**case.attributes, **weight}, case.constants, layout=layout
        )

    plain = named["BlockLinear"]
    grouped = reference.block_quantize(
        plain.inputs[0].astype(np.float32), bits=s.out_bits, block=s.block, group=s.width
    )
    heads = tiles(s.ffn, s.hidden, s.width)
    return [
        Case("SparseDequantize", list(parts(s.ffn, s.hidden)[1].values()), {}),
        Case(
            "SparseDequantizeTiles",
            heads,
            {**weight, "group": s.width, "rows": s.ffn, "columns": s.hidden},
            (0, 1),
            layout=layout,
        ),
        Case(
            "SparseLinear",
            [*grouped, *heads, plain.inputs[4]],
            {**weight, "block": s.block, "group": s.width},
            plain.constants,
            layout=layout,
        ),
        *(linear(name) for name in ("", "Quantize", "QuantizeValues", "Gelu", "Relu", "AddNorm")),
    ]

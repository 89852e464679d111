"""Operators over signs."""

from __future__ import annotations

import numpy as np

from bqc.formats.sign_layouts import pack_sign_rows, pack_sign_tiles
from bqc.ops import reference
from bqc.ops.registry import OPERATORS
from tests.support.op_cases.case import Array, Case, Sizes

__all__ = ["sign_cases"]


def sign_cases(s: Sizes, rng: np.random.Generator, blocks: list[Case]) -> list[Case]:
    """The operators over signs, with the inputs of those over blocks but for the weights."""
    named = {case.op: case for case in blocks if case.attributes.get("group", 0) == 0}
    planes, shared = 1 + s.seed % 2, s.seed % 3 == 0
    geometry = {"block": s.block, "group": 0}

    def scales(count: int) -> Array:
        values = rng.standard_normal((planes, 1 if shared else count)) * 0.1
        values[:, ::7] = 0
        return values.astype(np.float32)

    def signs(*shape: int) -> Array:
        return rng.choice(np.array([-1, 1], np.int8), (planes, *shape))

    def tiles(n: int, k: int, group: int = 0) -> list[Array]:
        packed = pack_sign_tiles(signs(n, k), group)
        return [packed, scales(packed.shape[1] * 16)]

    def linear(name: str) -> Case:
        """The case of ``BlockLinear<name>`` with another weight."""
        case = named[f"BlockLinear{name}"]
        codes, bias = case.inputs[0], case.inputs[4]
        inputs = [*case.inputs[:2], *tiles(len(bias), codes.shape[-1]), *case.inputs[4:]]
        attributes = {key: value for key, value in case.attributes.items() if key != "bits"}
        return Case(f"SignLinear{name}", inputs, attributes, case.constants, layout={"layout": "n16k16"})

    plain = named["BlockLinear"]
    codes = plain.inputs[0]
    grouped = reference.block_quantize(
        codes.astype(np.float32), bits=s.out_bits, block=s.block, group=s.width
    )
    table = [pack_sign_rows(signs(7, s.hidden)), scales(7)]
    embedding = named["EmbeddingLayerNorm"]
    cases = [
        Case("SignDequantize", [signs(s.ffn, s.hidden), scales(s.ffn)], {}),
        Case(
            "SignDequantizeTiles",
            tiles(s.ffn, s.hidden, s.width),
            {"group": s.width, "rows": s.ffn, "columns": s.hidden},
            (0, 1),
            layout={"layout": "n16k16"},
        ),
        linear(""),
        Case(
            "SignLinear",
            [*grouped, *tiles(s.ffn, s.hidden, s.width), plain.inputs[4]],
            {**geometry, "group": s.width},
            plain.constants,
            layout={"layout": "n16k16"},
        ),
        *(linear(name) for name in ("Quantize", "QuantizeValues", "Gelu", "Relu", "AddNorm")),
        Case(
            "SignGather",
            [embedding.inputs[0], *table],
            {"columns": s.hidden},
            (1, 2),
            layout={"layout": "row"},
        ),
        Case(
            "SignEmbeddingLayerNorm",
            [*embedding.inputs[:3], *table, *embedding.inputs[5:]],
            {key: value for key, value in embedding.attributes.items() if key != "word_bits"},
            embedding.constants,
            layout={"layout": "row"},
        ),
    ]
    return cases + [_with_half_scales(case) for case in cases]


def _with_half_scales(case: Case) -> Case:
    """The same operator over signs with scales in fp16, the smallest and the largest number among them."""
    at = OPERATORS[case.op].inputs.index("word_scales" if "Embedding" in case.op else "scales")
    halves = case.inputs[at].astype(np.float16)
    halves[:, 1:2], halves[:, 2:3] = 2.0**-24, 65504.0
    inputs = [*case.inputs[:at], halves, *case.inputs[at + 1 :]]
    return Case(case.op, inputs, case.attributes, case.constants, layout=case.layout)

"""Inputs for every operator, and one-node models to run them in: shared by body and kernel parity tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from bqc.formats import Blocks, BlockShift, Sparse
from bqc.formats.bit_layouts import pack_bit_tiles
from bqc.formats.sign_layouts import pack_sign_rows, pack_sign_tiles
from bqc.formats.sparse import PATTERNS
from bqc.formats.strips import pack_strips
from bqc.ops import ragged_reference, reference
from bqc.ops.constants import FLT_MAX
from bqc.ops.registry import DOMAIN, OPERATORS, functions_for

__all__ = ["Case", "bert_cases", "expected", "model", "same_bits"]

Array = NDArray[Any]


@dataclass
class Case:
    """One call: operator, inputs by position, attributes; ``constants`` are the inputs that are initializers."""

    op: str
    inputs: list[Array]
    attributes: dict[str, Any]
    constants: tuple[int, ...] = ()
    label: str = ""
    layout: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{self.label}"


def expected(case: Case) -> list[Array]:
    """What the numpy reference says."""
    result = OPERATORS[case.op].reference(*case.inputs, **case.attributes)
    return list(result) if isinstance(result, tuple) else [result]


def model(case: Case, *, functions: bool = True) -> onnx.ModelProto:
    """A one-node model; inputs are x0, x1, ... but for the constants."""
    names = [f"x{i}" for i in range(len(case.inputs))]
    outputs = [f"y{i}" for i in range(len(expected(case)))]
    attributes = {
        k: float(v) if k in ("epsilon", "scale", "minimum") else v for k, v in case.attributes.items()
    }
    node = helper.make_node(
        case.op, names, outputs, name=f"node_{case.op}", domain=DOMAIN, **attributes, **case.layout
    )
    live = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), [None] * x.ndim)
        for i, (n, x) in enumerate(zip(names, case.inputs, strict=True))
        if i not in case.constants
    ]
    results = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(y.dtype), [None] * y.ndim)
        for n, y in zip(outputs, expected(case), strict=True)
    ]
    constants = [onnx.numpy_helper.from_array(case.inputs[i], names[i]) for i in case.constants]
    graph = helper.make_graph([node], case.op, live, results, constants)
    bodies = functions_for([case.op]) if functions else []
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=bodies)


def feeds(case: Case) -> dict[str, Array]:
    return {f"x{i}": x for i, x in enumerate(case.inputs) if i not in case.constants}


def same_bits(a: Array, b: Array) -> bool:
    """Equal dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@dataclass(frozen=True)
class Sizes:
    """Sizes of the tensors that `bert_cases` makes."""

    batch: int = 2
    length: int = 5
    heads: int = 2
    width: int = 26
    ffn: int = 70
    bits: int = 8
    block: int = 16
    out_bits: int = 8
    spread: float = 1.0
    seed: int = 0

    @property
    def hidden(self) -> int:
        return self.heads * self.width


def _ragged(
    s: Sizes, mask: Array, tokens_of: list[Array], x: Array, odd: Array, rng: np.random.Generator
) -> list[Case]:
    """The same tokens as sequences of other lengths, some perhaps of none."""
    tokens = s.batch * s.length
    cuts = np.sort(rng.integers(0, tokens + 1, max(s.batch - 1, 0)))
    seq_start = np.array([0, *cuts, tokens][: s.batch + 1], np.int64)
    attention = {"heads": s.heads, "block": min(s.block, s.width)}
    *flat, x, odd = (part.reshape(tokens, part.shape[-1]) for part in (*tokens_of, x, odd))
    keep = mask.reshape(tokens).copy()
    keep[: seq_start[1 % len(seq_start)]] *= s.seed % 2  # in some, nothing is kept of the first sequence
    make = {**attention, "bits": s.out_bits}
    values = ragged_reference.ragged_block_quantize_values(x, keep, seq_start, **make)
    scale = float(np.float32(s.width**-0.5))
    return [
        Case("RaggedBlockQuantizeValues", [odd, keep, seq_start], make),
        Case(
            "RaggedBlockAttention",
            [*flat, *values, keep, seq_start],
            {**attention, "scale": scale, "out_bits": s.out_bits},
        ),
    ]


def bert_cases(s: Sizes) -> list[Case]:
    """A case of every operator at one set of sizes."""
    rng = np.random.default_rng(s.seed)

    def floats(*shape: int, wide: bool = False) -> Array:
        x = rng.standard_normal(shape)
        if wide and x.size:
            x = x * np.exp2(rng.uniform(-s.spread, s.spread, shape)) * np.exp2(rng.integers(-30, 30))
        return x.astype(np.float32)

    def special(x: Array) -> Array:
        flat = x.reshape(-1)
        if flat.size > 40:
            values = [np.nan, np.inf, -np.inf, 1e-40, -0.0, 0.0, 3.4e38, -(2.0**-126), 127.5, 2.0**20]
            at = rng.permutation(flat.size)[: len(values)]
            flat[at] = np.array(values, np.float32)
        return flat.reshape(x.shape)

    hidden, lead = s.hidden, (s.batch, s.length)
    inner = min(s.block, s.width)
    mask = np.ones(lead, np.int64)
    if s.batch > 1 and s.length > 1:
        mask[0, s.length // 2 + 1 :] = 0
        mask[1, : s.length // 3] = 0
    if s.batch > 2:
        mask[2] = 0
    out = {"out_bits": s.out_bits, "out_block": s.block, "out_group": 0}
    quant = reference.block_quantize
    geometry = {"bits": s.bits, "block": s.block, "group": 0}

    def linear(k: int, n: int, group: int = 0) -> list[Array]:
        fmt = BlockShift(s.bits, 16, group)
        span = Blocks(k, s.block, group)
        codes = rng.integers(fmt.low, fmt.high + 1, (n, k)).astype(np.int8)
        exponents = rng.integers(-14, -5, (span.count, -(-n // 16) * 16)).astype(np.int8)
        x = quant(floats(*lead, k, wide=True), bits=s.out_bits, block=s.block, group=group)
        return [*x, fmt.pack_matrix(codes), exponents, floats(n)]

    weights = (2, 3, 4)
    tiles = {"layout": "n16k4"}
    label = f"b{s.batch}s{s.length}h{s.heads}x{s.width}-w{s.bits}-k{s.block}-{s.seed}"
    head = quant(floats(*lead, hidden), bits=s.out_bits, block=inner, group=s.width)
    key = quant(floats(*lead, hidden), bits=s.out_bits, block=inner, group=s.width)
    values = reference.block_quantize_values(
        floats(*lead, hidden), mask, heads=s.heads, bits=s.out_bits, block=inner
    )
    scores = floats(s.batch, s.heads, s.length, s.length, wide=True)
    codes = reference.masked_softmax(scores, mask)
    residual = quant(floats(*lead, hidden, wide=True), bits=8, block=s.block, group=0)
    gamma, beta = floats(hidden), floats(hidden)
    table = BlockShift(s.bits, 16)
    ids = rng.integers(-7, 7, lead)

    def rows(count: int) -> list[Array]:
        raw = rng.integers(table.low, table.high + 1, (count, hidden)).astype(np.int8)
        blocks = Blocks(hidden, s.block)
        return [table.pack_rows(raw), rng.integers(-9, -3, (count, blocks.count)).astype(np.int8)]

    def tiled(count: int) -> list[Array]:
        raw = rng.integers(table.low, table.high + 1, (count, hidden)).astype(np.int8)
        scales = rng.integers(-9, -3, (Blocks(hidden, s.block).count, -(-count // 16) * 16))
        return [table.pack_matrix(raw), scales.astype(np.int8)]

    position = np.arange(s.length, dtype=np.int64)[None]
    attention = {"heads": s.heads, "block": inner}
    cases = [
        *_ragged(s, mask, [*head, *key], floats(*lead, hidden), special(floats(*lead, hidden)), rng),
        Case(
            "BlockQuantize",
            [special(floats(*lead, hidden, wide=True))],
            {"bits": s.out_bits, "block": s.block, "group": s.width},
        ),
        Case(
            "BlockQuantize",
            [special(floats(*lead, hidden, wide=True))],
            {"bits": s.out_bits, "block": s.block, "group": 0},
        ),
        Case("BlockDequantize", list(residual), {"block": s.block, "group": 0}),
        Case(
            "BlockQuantizeValues", [special(floats(*lead, hidden)), mask], {**attention, "bits": s.out_bits}
        ),
        *(
            Case(
                "StaticQuantize",
                [special(floats(*lead, hidden, wide=True)), np.array([exponent], np.float32)],
                {"bits": s.out_bits, "block": s.block, "group": group, "minimum": minimum},
            )
            for exponent, group, minimum in (
                (-2.5, 0, -FLT_MAX),
                (-1.7, s.width, -0.17),
                (-9.2, 0, -0.17),
                (np.inf, 0, 0.0),
                (-np.inf, 0, -1e-36),
                (np.nan, 0, -1.0),
            )
        ),
        *(
            Case(
                "StaticQuantizeValues",
                [special(floats(*lead, hidden)), np.array([exponent], np.float32)],
                {**attention, "bits": s.out_bits},
            )
            for exponent in (-3.0, 200.0)
        ),
        Case("Gelu", [special(floats(*lead, s.ffn) * 3)], {"approximate": s.seed % 2}),
        Case("Tanh", [special(floats(*lead, s.ffn) * 3)], {}),
        Case(
            "LayerNorm", [special(floats(*lead, hidden, wide=True)), gamma, beta], {"epsilon": 1e-12}, (1, 2)
        ),
        Case("BlockLinear", linear(hidden, s.ffn), geometry, weights, layout=tiles),
        Case(
            "BlockLinear",
            linear(hidden, s.ffn, s.width),
            {**geometry, "group": s.width},
            weights,
            layout=tiles,
        ),
        Case(
            "BlockDequantizeTiles",
            linear(hidden, s.ffn, s.width)[2:4],
            {**geometry, "group": s.width, "rows": s.ffn, "columns": hidden},
            (0, 1),
            layout=tiles,
        ),
        Case("SoftmaxDequantize", [codes], {}),
        Case(
            "BlockLinearQuantize",
            linear(hidden, hidden),
            {**geometry, **out, "out_group": s.width},
            weights,
            layout=tiles,
        ),
        Case(
            "BlockLinearQuantizeValues",
            [*linear(hidden, hidden), mask],
            {**geometry, "heads": s.heads, "out_bits": s.out_bits, "out_block": inner},
            weights,
            layout=tiles,
        ),
        Case(
            "BlockLinearGelu",
            linear(hidden, s.ffn),
            {**geometry, "approximate": s.seed % 2, **out},
            weights,
            layout=tiles,
        ),
        Case(
            "BlockLinearAddNorm",
            [*linear(s.ffn, hidden), *residual, gamma, beta],
            {**geometry, "residual_block": s.block, "residual_group": 0, "epsilon": 1e-12, **out},
            (*weights, 7, 8),
            layout=tiles,
        ),
        Case("BlockScores", [*head, *key], {**attention, "scale": float(np.float32(s.width**-0.5))}),
        Case("MaskedSoftmax", [special(scores), mask], {}),
        Case("BlockContext", [codes, *values], attention),
        Case(
            "BlockAttention",
            [*head, *key, *values, mask],
            {**attention, "scale": float(np.float32(s.width**-0.5)), "out_bits": s.out_bits},
        ),
        Case(
            "BlockGather",
            [ids, *rows(7)],
            {"columns": hidden, "bits": s.bits, "block": s.block},
            (1, 2),
            layout={"layout": "row"},
        ),
        Case(
            "EmbeddingLayerNorm",
            [ids, ids % 2, position, *rows(7), *rows(2), *rows(max(s.length, 1)), gamma, beta],
            {
                "columns": hidden,
                "word_bits": s.bits,
                "type_bits": s.bits,
                "position_bits": s.bits,
                "block": s.block,
                "epsilon": 1e-12,
                **out,
            },
            tuple(range(3, 11)),
            layout={"layout": "row"},
        ),
        Case(
            "BlockGatherTiles",
            [ids * 3, *tiled(21)],
            {"columns": hidden, "rows": 21, "bits": s.bits, "block": s.block},
            (1, 2),
            layout=tiles,
        ),
        Case(
            "EmbeddingLayerNormTiles",
            [ids * 3, ids % 2, position, *tiled(21), *rows(2), *rows(max(s.length, 1)), gamma, beta],
            {
                "columns": hidden,
                "rows": 21,
                "word_bits": s.bits,
                "type_bits": s.bits,
                "position_bits": s.bits,
                "block": s.block,
                "epsilon": 1e-12,
                **out,
            },
            tuple(range(3, 11)),
            layout={"word_layout": "n16k4", "layout": "row"},
        ),
    ]
    cases += _sign_cases(s, rng, cases)
    cases += _sparse_cases(s, rng, cases)
    cases += _half_cases(s, ids, special(floats(*lead, hidden, wide=True)))
    cases += _xnor_cases(s, rng, cases)
    for case in cases:
        case.label = label
    return cases


def _sign_cases(s: Sizes, rng: np.random.Generator, blocks: list[Case]) -> list[Case]:
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
    return [
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
        *(linear(name) for name in ("Quantize", "QuantizeValues", "Gelu", "AddNorm")),
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


def _half_cases(s: Sizes, ids: Array, x: Array) -> list[Case]:
    """The operators over fp16 numbers and indices of them."""
    rng = np.random.default_rng(s.seed + 100)
    n, k, rows = s.ffn, s.hidden, 21

    def halves(*shape: int) -> Array:
        """Ordinary numbers, and any finite pattern of bits."""
        ordinary = (rng.standard_normal(shape) * 0.1).astype(np.float16)
        wild = rng.integers(0, 0x7C00, shape).astype(np.uint16) | rng.choice(
            np.array([0, 0x8000], np.uint16), shape
        )
        return np.where(rng.random(shape) < 0.1, wild.view(np.float16), ordinary)

    table, bias = halves(256), rng.standard_normal(n).astype(np.float32)
    bias[:1] = np.inf
    codes, words = (rng.integers(0, 256, (count, k)).astype(np.uint8) for count in (n, rows))
    weight, known = halves(n, k), halves(rows, k)
    lookup, strips, row = {"columns": k}, {"layout": "n16"}, {"layout": "row"}
    tiled = {"columns": k, "rows": rows}
    return [
        Case("HalfRound", [x], {}),
        Case("HalfDequantize", [weight], {}),
        Case("HalfDequantizeTiles", [pack_strips(weight)], {"rows": n, "columns": k}, (0,), layout=strips),
        Case("HalfLinear", [x, pack_strips(weight), bias], {}, (1, 2), layout=strips),
        Case("HalfGather", [ids * 3, known], lookup, (1,), layout=row),
        Case("HalfGatherTiles", [ids * 3, pack_strips(known)], tiled, (1,), layout=strips),
        Case("IndexDequantize", [codes, table], {}),
        Case(
            "IndexDequantizeTiles",
            [pack_strips(codes), table],
            {"rows": n, "columns": k},
            (0, 1),
            layout=strips,
        ),
        Case("IndexLinear", [x, pack_strips(codes), table, bias], {}, (1, 2, 3), layout=strips),
        Case("IndexGather", [ids * 3, words, table], lookup, (1, 2), layout=row),
        Case("IndexGatherTiles", [ids * 3, pack_strips(words), table], tiled, (1, 2), layout=strips),
    ]


def _xnor_cases(s: Sizes, rng: np.random.Generator, blocks: list[Case]) -> list[Case]:
    """The operators on signs by signs, with residuals and norms of those over blocks; stray bits are set."""
    named = {case.op: case for case in blocks}
    shared = s.seed % 2 == 0
    layout = {"layout": "n16k64"}

    def bits(k: int) -> Array:
        return rng.integers(0, 256, (s.batch, s.length, -(-k // 8))).astype(np.uint8)

    def weight(n: int, k: int) -> list[Array]:
        tiles = rng.integers(0, 256, pack_bit_tiles(np.ones((n, k), np.int8)).shape).astype(np.uint8)
        scales = rng.standard_normal(1 if shared else tiles.shape[0] * 16)
        scales[::7] *= shared  # a zero now and then
        bias = rng.integers(-2, 3, n) * np.abs(scales[0] if shared else scales[:n])
        return [tiles, scales.astype(np.float32), bias.astype(np.float32)]

    add_norm = named["SignLinearAddNorm"]
    return [
        Case("Binarize", named["BlockQuantize"].inputs, {}),
        Case("BinarizeCodes", [add_norm.inputs[0]], {}),
        Case("BinaryDequantize", [bits(s.ffn)], {"columns": s.ffn}),
        Case(
            "XnorDequantize",
            [rng.choice(np.array([-1, 1], np.int8), (s.ffn, s.hidden)), np.abs(weight(1, 1)[1][:1])],
            {},
        ),
        Case(
            "XnorDequantizeTiles",
            weight(s.ffn, s.hidden)[:2],
            {"rows": s.ffn, "columns": s.hidden},
            (0, 1),
            layout=layout,
        ),
        *(
            Case(
                f"XnorLinear{form}",
                [bits(s.hidden), *weight(s.ffn, s.hidden)],
                {"columns": s.hidden},
                (1, 2, 3),
                layout=layout,
            )
            for form in ("", "Binarize")
        ),
        Case(
            "XnorLinearAddNorm",
            [bits(s.ffn), *weight(s.hidden, s.ffn), *add_norm.inputs[5:]],
            {
                "columns": s.ffn,
                **{key: value for key, value in add_norm.attributes.items() if key not in ("block", "group")},
            },
            (1, 2, 3, 6, 7),
            layout=layout,
        ),
    ]


def _sparse_cases(s: Sizes, rng: np.random.Generator, blocks: list[Case]) -> list[Case]:
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
        *(linear(name) for name in ("", "Quantize", "QuantizeValues", "Gelu", "AddNorm")),
    ]

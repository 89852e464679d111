"""Every operator's kernel, at every ISA level and thread count, against `bqc.ops.reference`, byte for byte."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bqc.formats.geometry import Blocks
from bqc.formats.layouts import pack_rows, pack_tiles
from bqc.ops import reference
from bqc.runtime.library import library_path

Array = np.ndarray[Any, Any]

THREADS = (1, 2)
_EDGES = (
    0.0,
    1e-45,
    1.1754942e-38,
    2.0**-126,
    3.4028235e38,
    2.0**127,
    np.inf,
    np.nan,
    0.5,
    1.0,
    1.5,
    2.5,
    127.5,
    1e30,
)
HOSTILE = np.array([*_EDGES, *(-x for x in _EDGES)], np.float32)
TYPES = {
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int64): TensorProto.INT64,
}


def levels() -> list[str]:
    from bqc.runtime.native import native

    features = native().cpu_features()
    found = ["portable"]
    if "avx2" in features:
        found.append("avx2")
    if "avx512_vnni" in features:
        found.append("avx512")
        if "avx512_vbmi" in features and "avx512_vpopcntdq" in features:
            found.append("avx512_vbmi")
    return found


def model(
    op: str, inputs: list[Array], constant: set[int], outputs: list[Array], attributes: dict[str, Any]
) -> bytes:
    names = [f"in{i}" for i in range(len(inputs))]
    results = [f"out{i}" for i in range(len(outputs))]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, name=f"the {op}", domain="ai.bqc", **attributes)],
        "one",
        [
            helper.make_tensor_value_info(n, TYPES[x.dtype], [f"{n}_{i}" for i in range(x.ndim)])
            for i, (n, x) in enumerate(zip(names, inputs, strict=True))
            if i not in constant
        ],
        [
            helper.make_tensor_value_info(n, TYPES[x.dtype], [f"{n}_{i}" for i in range(x.ndim)])
            for n, x in zip(results, outputs, strict=True)
        ],
        [numpy_helper.from_array(inputs[i], names[i]) for i in sorted(constant)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.bqc", 1)]
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def session(blob: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.register_custom_ops_library(library_path())
    return ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(
        op: str,
        function: Any,
        inputs: list[Array],
        attributes: dict[str, Any],
        constant: set[int] = frozenset(),
    ):
        plain = {k: v for k, v in attributes.items() if not k.endswith("layout")}
        with np.errstate(all="ignore"):
            expected = function(*inputs, **plain)
        expected = list(expected) if isinstance(expected, tuple) else [expected]
        blob = model(op, inputs, constant, expected, attributes)
        feeds = {f"in{i}": x for i, x in enumerate(inputs) if i not in constant}
        for level, threads in itertools.product(levels(), THREADS):
            monkeypatch.setenv("BQC_MAX_ISA", level)
            got = session(blob, threads).run(None, feeds)
            for i, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
                where = f"{op} output {i} at {level}, {threads} threads, {attributes}"
                assert mine.shape == theirs.shape, where
                assert mine.dtype == theirs.dtype, where
                if mine.tobytes() != theirs.tobytes():
                    wrong = np.argwhere(mine.view(f"u{mine.itemsize}") != theirs.view(f"u{mine.itemsize}"))
                    at = tuple(wrong[0])
                    pytest.fail(f"{where}: {len(wrong)} differ, first {at}: {mine[at]!r} for {theirs[at]!r}")

    return run


class Maker:
    """Random inputs."""

    def __init__(self, seed: int) -> None:
        self.r = np.random.default_rng(seed)

    def floats(self, *shape: int, spread: float = 2.0, hostile: float = 0.0) -> Array:
        wide = self.r.standard_normal(shape) * np.exp2(self.r.normal(0, spread, shape).clip(-140, 120))
        x = wide.astype(np.float32)
        if hostile and x.size:
            where = self.r.random(shape) < hostile
            x[where] = self.r.choice(HOSTILE, int(where.sum()))
        return x

    def codes(self, *shape: int, bits: int = 8) -> Array:
        high = 2 ** (bits - 1) - 1
        low = -8 if bits == 4 else -high
        return self.r.integers(low, high + 1, shape).astype(np.int8)

    def exponents(self, *shape: int, low: int = -14, high: int = -2) -> Array:
        return self.r.integers(low, high + 1, shape).astype(np.int8)

    def pair(self, *shape: int, block: int, group: int = 0, **range_: int) -> tuple[Array, Array]:
        return self.codes(*shape), self.exponents(
            *shape[:-1], Blocks(shape[-1], block, group).count, **range_
        )

    def linear(
        self, lead: tuple[int, ...], k: int, n: int, bits: int, block: int, group: int = 0, **range_: int
    ) -> list[Array]:
        blocks = Blocks(k, block, group)
        tiles = pack_tiles(self.codes(n, k, bits=bits), bits, blocks.span)
        return [
            *self.pair(*lead, k, block=block, group=group, **range_),
            tiles,
            self.exponents(blocks.count, -(-n // 16) * 16, **range_),
            self.floats(n),
        ]

    def mask(self, batch: int, length: int, kind: str) -> Array:
        mask = np.ones((batch, length), np.int64)
        for b in range(batch):
            cut = int(self.r.integers(0, length + 1))
            if kind == "right":
                mask[b, cut:] = 0
            elif kind == "left":
                mask[b, :cut] = 0
            elif kind == "empty" and b % 2 == 0:
                mask[b] = 0
            elif kind == "holes":
                mask[b] = self.r.integers(0, 3, length)
        return mask


FORMATS = [
    # length, bits, block, group
    (768, 8, 64, 0),
    (768, 6, 64, 64),
    (768, 4, 32, 64),
    (312, 8, 64, 0),
    (312, 8, 32, 26),
    (312, 4, 16, 26),
    (384, 6, 128, 32),
    (384, 8, 16, 0),
    (26, 8, 64, 0),
    (27, 4, 16, 0),
    (3072, 8, 256, 0),
    (1, 8, 16, 0),
]


LEADS = [(1,), (0,), (3, 5), (2, 1, 40)]


@pytest.mark.parametrize(("k", "bits", "block", "group"), FORMATS)
def test_quantize(check: Any, k: int, bits: int, block: int, group: int) -> None:
    make = Maker(k + bits)
    for lead, hostile in itertools.product(LEADS, (0.0, 0.05, 1.0)):
        x = make.floats(*lead, k, spread=20.0 if hostile else 3.0, hostile=hostile)
        if x.size:
            x.reshape(-1, k)[0] = 0
        check("BlockQuantize", reference.block_quantize, [x], {"bits": bits, "block": block, "group": group})


@pytest.mark.parametrize(("k", "bits", "block", "group"), FORMATS)
def test_dequantize(check: Any, k: int, bits: int, block: int, group: int) -> None:
    make = Maker(k)
    for lead in LEADS:
        pair = make.pair(*lead, k, block=block, group=group, low=-126, high=127)
        check("BlockDequantize", reference.block_dequantize, list(pair), {"block": block, "group": group})


@pytest.mark.parametrize(
    ("hidden", "heads", "bits", "block"), [(768, 12, 8, 64), (312, 12, 8, 32), (64, 2, 4, 16)]
)
@pytest.mark.parametrize("kind", ["all", "right", "left", "empty", "holes"])
def test_quantize_values(check: Any, hidden: int, heads: int, bits: int, block: int, kind: str) -> None:
    make = Maker(hidden)
    for batch, length in ((0, 4), (1, 1), (3, 17), (2, 64)):
        x = make.floats(batch, length, hidden, spread=10.0, hostile=0.01)
        attributes = {"heads": heads, "bits": bits, "block": block}
        inputs = [x, make.mask(batch, length, kind)]
        check("BlockQuantizeValues", reference.block_quantize_values, inputs, attributes)


def all_kinds_of_floats(seed: int) -> Array:
    make = Maker(seed)
    ranges = [np.linspace(-limit, limit, 20001, dtype=np.float32) for limit in (6.0, 0.1, 12.0)]
    edges = np.array([4.9999995, 5.0, 5.0000005, 8.999999, 9.0, 9.000001], np.float32)
    wild = make.r.integers(0, 2**32, 20011, dtype=np.uint32).view(np.float32)
    return np.concatenate([*ranges, edges, -edges, HOSTILE, wild])


@pytest.mark.parametrize("approximate", [0, 1])
def test_gelu(check: Any, approximate: int) -> None:
    x = all_kinds_of_floats(1)
    check("Gelu", reference.gelu, [x], {"approximate": approximate})
    check("Gelu", reference.gelu, [x[:77].reshape(7, 11)], {"approximate": approximate})
    check("Gelu", reference.gelu, [x[:0].reshape(0, 4)], {"approximate": approximate})


def test_tanh(check: Any) -> None:
    x = all_kinds_of_floats(2)
    check("Tanh", reference.tanh, [x], {})
    check("Tanh", reference.tanh, [x[:1]], {})


@pytest.mark.parametrize("k", [1, 26, 27, 312, 768, 3072])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 0.0])
def test_layer_norm(check: Any, k: int, epsilon: float) -> None:
    make = Maker(k)
    for lead, hostile, spread in itertools.product(LEADS, (0.0, 0.02), (0.5, 30.0)):
        x = make.floats(*lead, k, spread=spread, hostile=hostile)
        if x.size:
            x.reshape(-1, k)[0] = 3.0
        inputs = [x, make.floats(k, hostile=hostile), make.floats(k, hostile=hostile)]
        check("LayerNorm", reference.layer_norm, inputs, {"epsilon": epsilon})


LINEAR = [
    # leading dimensions, K, N, bits, block, group
    ((1,), 26, 1, 8, 64, 0),
    ((0,), 64, 16, 8, 64, 0),
    ((3, 0), 64, 16, 4, 64, 0),
    ((5,), 312, 312, 8, 64, 0),
    ((7,), 312, 45, 8, 16, 26),
    ((7,), 312, 45, 6, 32, 26),
    ((7,), 312, 45, 4, 16, 26),
    ((2, 13), 384, 100, 6, 128, 32),
    ((2, 13), 384, 100, 4, 32, 32),
    ((2, 13), 768, 100, 4, 64, 64),
    ((1, 49), 768, 130, 8, 64, 0),
    ((1, 49), 768, 130, 6, 64, 0),
    ((1, 49), 768, 130, 4, 256, 0),
    ((2, 64), 128, 96, 8, 16, 0),
    ((3, 71), 96, 33, 8, 96, 0),
    ((1, 512), 64, 48, 6, 16, 0),
    ((16,), 3072, 64, 8, 64, 0),
    ((2,), 3072, 33, 4, 3072, 0),
    ((7,), 312, 45, 2, 16, 26),
    ((2, 13), 384, 100, 2, 32, 32),
    ((1, 49), 768, 130, 2, 64, 0),
    ((7,), 312, 45, 3, 16, 26),
    ((2, 13), 280, 100, 3, 32, 40),
    ((1, 49), 768, 130, 3, 64, 0),
    ((2,), 3088, 33, 3, 3088, 0),
]


def linear_attributes(bits: int, block: int, group: int) -> dict[str, Any]:
    return {"bits": bits, "block": block, "group": group, "layout": "n16k4"}


@pytest.mark.parametrize(("lead", "k", "n", "bits", "block", "group"), LINEAR)
def test_linear(check: Any, lead: tuple[int, ...], k: int, n: int, bits: int, block: int, group: int) -> None:
    make = Maker(k + n)
    # The second is what exponents may be to be added up as they are, the third goes a little beyond.
    for low, high in ((-14, -2), (-63, 48), (-65, 50), (-126, 127)):
        inputs = make.linear(lead, k, n, bits, block, group, low=low, high=high)
        if low < -14:
            inputs[4] = make.floats(n, hostile=0.5)
            inputs[0].reshape(-1)[::3] = -128  # no quantiser writes it, but int8 holds it
        if bits == 3 and inputs[2].shape[1] % 3:
            inputs[2][:, -1] |= 0xF0  # bits of no input
        check("BlockLinear", reference.block_linear, inputs, linear_attributes(bits, block, group), {2, 3, 4})


OUT = [{"out_bits": 8, "out_block": 64, "out_group": 0}, {"out_bits": 6, "out_block": 16, "out_group": 1}]


@pytest.mark.parametrize(("lead", "k", "n", "bits", "block", "group"), LINEAR)
def test_fused_linear(
    check: Any, lead: tuple[int, ...], k: int, n: int, bits: int, block: int, group: int
) -> None:
    make = Maker(k + n + 1)
    inputs = make.linear(lead, k, n, bits, block, group)
    attributes = linear_attributes(bits, block, group) | {"out_bits": 8, "out_block": 64, "out_group": 0}
    constant = {2, 3, 4}
    check("BlockLinearQuantize", reference.block_linear_quantize, inputs, attributes, constant)
    approximate = n % 2
    gelu = attributes | {"approximate": approximate, "out_bits": 6 if n % 3 else 4, "out_block": 32}
    check("BlockLinearGelu", reference.block_linear_gelu, inputs, gelu, constant)
    residual_group = n if n % 3 else n // 3
    norm = attributes | {"residual_block": 32, "residual_group": residual_group, "epsilon": 1e-12}
    residual = make.pair(*lead, n, block=32, group=residual_group)
    more = [*inputs, *residual, make.floats(n), make.floats(n)]
    check("BlockLinearAddNorm", reference.block_linear_add_norm, more, norm, constant | {7, 8})


@pytest.mark.parametrize("group", [26, 32, 64])
def test_linear_quantize_groups(check: Any, group: int) -> None:
    make = Maker(group)
    inputs = make.linear((2, 30), 96, 3 * group, 8, 32)
    attributes = linear_attributes(8, 32, 0) | {"out_bits": 8, "out_block": 64, "out_group": group}
    check("BlockLinearQuantize", reference.block_linear_quantize, inputs, attributes, {2, 3, 4})


@pytest.mark.parametrize("kind", ["all", "right", "left", "empty", "holes"])
@pytest.mark.parametrize("width", [26, 32, 64])
def test_linear_quantize_values(check: Any, width: int, kind: str) -> None:
    make = Maker(width)
    for batch, length in ((0, 5), (1, 1), (3, 7), (2, 40)):
        inputs = [*make.linear((batch, length), 96, 3 * width, 6, 32), make.mask(batch, length, kind)]
        attributes = linear_attributes(6, 32, 0) | {"heads": 3, "out_bits": 8, "out_block": 32}
        op, function = "BlockLinearQuantizeValues", reference.block_linear_quantize_values
        check(op, function, inputs, attributes, {2, 3, 4})


ATTENTION = [
    # batch, sequence, heads, head size, block
    (0, 4, 2, 32, 32),
    (1, 1, 2, 64, 64),
    (3, 7, 3, 26, 64),
    (1, 33, 2, 26, 16),
    (2, 17, 4, 32, 16),
    (2, 64, 2, 64, 64),
    (1, 130, 1, 64, 32),
    (1, 512, 2, 64, 64),
]


@pytest.mark.parametrize("kind", ["all", "right", "left", "empty", "holes"])
@pytest.mark.parametrize(("batch", "length", "heads", "width", "block"), ATTENTION)
def test_attention(
    check: Any, batch: int, length: int, heads: int, width: int, block: int, kind: str
) -> None:
    make = Maker(length + width)
    hidden = heads * width
    q = make.pair(batch, length, hidden, block=block, group=width, low=-10, high=-4)
    key = make.pair(batch, length, hidden, block=block, group=width, low=-10, high=-4)
    values = make.codes(batch, length, hidden), make.exponents(batch, Blocks(hidden, block, width).count)
    mask = make.mask(batch, length, kind)
    shared = {"heads": heads, "block": block}
    scale = float(np.float32(width**-0.5))
    everything = [*q, *key, *values, mask]
    attributes = shared | {"scale": scale, "out_bits": (8, 6, 4)[length % 3]}
    check("BlockAttention", reference.block_attention, everything, attributes)
    if length > 200 or kind not in ("all", "empty"):
        return
    check("BlockScores", reference.block_scores, [*q, *key], shared | {"scale": scale})
    probabilities = make.r.integers(0, 256, (batch, heads, length, length)).astype(np.uint8)
    probabilities[..., 0, :] = 255
    check("BlockContext", reference.block_context, [probabilities, *values], shared)


def test_extreme_attention(check: Any) -> None:
    make = Maker(9)
    q = make.pair(2, 20, 64, block=16, group=32, low=-126, high=127)
    key = make.pair(2, 20, 64, block=16, group=32, low=-126, high=127)
    values = make.codes(2, 20, 64), make.exponents(2, 4, low=-126, high=127)
    for scale in (0.125, 1e30, -2.0):
        attributes = {"heads": 2, "block": 16, "scale": scale}
        check("BlockScores", reference.block_scores, [*q, *key], attributes)
        inputs = [*q, *key, *values, make.mask(2, 20, "right")]
        check("BlockAttention", reference.block_attention, inputs, attributes | {"out_bits": 8})


@pytest.mark.parametrize("kind", ["all", "right", "left", "empty", "holes"])
def test_softmax(check: Any, kind: str) -> None:
    make = Maker(3)
    for batch, heads, queries, keys, hostile in itertools.product(
        (0, 1, 3), (2,), (1, 9), (1, 17, 300), (0.0, 0.1)
    ):
        scores = make.floats(batch, heads, queries, keys, spread=1.0, hostile=hostile)
        check("MaskedSoftmax", reference.masked_softmax, [scores, make.mask(batch, keys, kind)], {})


def table(make: Maker, rows: int, columns: int, bits: int, block: int) -> list[Array]:
    packed = pack_rows(make.codes(rows, columns, bits=bits), bits)
    return [packed, make.exponents(rows, Blocks(columns, block).count)]


@pytest.mark.parametrize("columns", [26, 27, 312, 768])
@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_gather(check: Any, columns: int, bits: int) -> None:
    make = Maker(columns)
    for shape, block in itertools.product([(), (5,), (0, 3), (2, 3, 4)], (16, 64, columns)):
        ids = np.asarray(make.r.integers(-50, 50, shape), np.int64)
        attributes = {"columns": columns, "bits": bits, "block": block, "layout": "row"}
        inputs = [ids, *table(make, 50, columns, bits, block)]
        check("BlockGather", reference.block_gather, inputs, attributes, {1, 2})


def tiled(make: Maker, rows: int, columns: int, bits: int, block: int) -> list[Array]:
    packed = pack_tiles(make.codes(rows, columns, bits=bits), bits)
    return [packed, make.exponents(Blocks(columns, block).count, -(-rows // 16) * 16)]


@pytest.mark.parametrize("columns", [26, 27, 312, 768])
@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_gather_of_tiles(check: Any, columns: int, bits: int) -> None:
    make = Maker(columns)
    for shape, block in itertools.product([(), (5,), (0, 3), (2, 3, 4)], (16, 64, columns)):
        ids = np.asarray(make.r.integers(-50, 50, shape), np.int64)
        attributes = {"columns": columns, "rows": 50, "bits": bits, "block": block, "layout": "n16k4"}
        inputs = [ids, *tiled(make, 50, columns, bits, block)]
        check("BlockGatherTiles", reference.block_gather_tiles, inputs, attributes, {1, 2})


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 48])
def test_a_row_of_tiles_is_a_row_of_the_table(rows: int) -> None:
    make = Maker(rows)
    ids = np.arange(-rows, rows)
    for bits in (8, 6, 4, 3, 2):
        codes, exponents = make.codes(rows, 40, bits=bits), make.exponents(rows, 3)
        scales = np.pad(exponents.T, ((0, 0), (0, -rows % 16)))
        size = {"columns": 40, "bits": bits, "block": 16}
        want = reference.block_gather(ids, pack_rows(codes, bits), exponents, **size)
        got = reference.block_gather_tiles(ids, pack_tiles(codes, bits), scales, rows=rows, **size)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("columns", "bits"),
    [(26, (8, 8, 8)), (312, (4, 6, 8)), (768, (6, 8, 4)), (27, (2, 8, 2)), (28, (3, 2, 3))],
)
def test_embedding_layer_norm(check: Any, columns: int, bits: tuple[int, int, int]) -> None:
    make = Maker(columns)
    for batch, length, positions in ((0, 3, 1), (1, 1, 1), (3, 40, 1), (3, 40, 3)):
        ids = [
            make.r.integers(-99, 99, (batch, length)),
            make.r.integers(0, 2, (batch, length)),
            make.r.integers(0, 64, (batch if positions > 1 else 1, length)),
        ]
        sizes = zip((99, 2, 64), bits, strict=True)
        tables = list(itertools.chain.from_iterable(table(make, v, columns, b, 64) for v, b in sizes))
        attributes = {
            "columns": columns,
            "word_bits": bits[0],
            "type_bits": bits[1],
            "position_bits": bits[2],
            "block": 64,
        }
        attributes |= {"epsilon": 1e-12, "out_bits": 8, "out_block": 64, "out_group": 0, "layout": "row"}
        inputs = [*ids, *tables, make.floats(columns), make.floats(columns)]
        check("EmbeddingLayerNorm", reference.embedding_layer_norm, inputs, attributes, set(range(3, 11)))
        inputs[3:5] = tiled(make, 99, columns, bits[0], 64)
        attributes |= {"rows": 99, "word_layout": "n16k4"}
        function = reference.embedding_layer_norm_tiles
        check("EmbeddingLayerNormTiles", function, inputs, attributes, set(range(3, 11)))

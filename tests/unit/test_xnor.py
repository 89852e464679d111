"""Xnor: definitions, special values, packing, and what GELU and ReLU leave of a sign."""

from __future__ import annotations

import numpy as np
import pytest

from bqc.errors import BqcError
from bqc.formats import Xnor
from bqc.formats.bit_layouts import pack_bit_tiles, pack_bits, unpack_bit_tiles, unpack_bits
from bqc.formats.stored import weight_format
from bqc.ops import reference, xnor_reference

RNG = np.random.default_rng(0)
SCALES = ("one", "tensor", "row")
EDGES = np.array([0.0, -0.0, np.nan, -np.nan, 1e-45, -1e-45, np.inf, -np.inf, 1.0, -1.0], np.float32)
SIGNS = [-1, -1, -1, -1, 1, -1, 1, -1, 1, -1]


@pytest.mark.parametrize("scale", SCALES)
def test_definitions(scale: str) -> None:
    w = (RNG.standard_normal((11, 70)) + 0.3).astype(np.float32)
    signs, scales = Xnor(scale).quantize(w)
    assert signs.shape == (11, 70)
    wide = np.abs(w.astype(np.float64))
    wanted = {"one": np.ones((1, 1)), "tensor": wide.mean(keepdims=True), "row": wide.mean(1, keepdims=True)}
    assert scales.shape == wanted[scale].shape[:1]
    values = Xnor(scale).dequantize(signs, scales)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted[scale] * np.where(w > 0, 1, -1), rtol=1e-7, atol=0)


def test_zero_and_nan_are_negative_in_weights_and_inputs() -> None:
    assert Xnor("one").quantize(EDGES[None])[0].tolist() == [SIGNS]
    bits = xnor_reference.binarize(EDGES[None])
    assert xnor_reference.binary_dequantize(bits, columns=10).tolist() == [SIGNS]
    assert bits.tolist() == [[0b01010000, 0b01]]


def test_scales_of_special_values() -> None:
    w = np.array([[np.nan, 0.0, 1.0, -3.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    assert Xnor("row").quantize(w)[1].tolist() == [1.0, 0.0]
    assert Xnor("tensor").quantize(w)[1].tolist() == [0.5]


@pytest.mark.parametrize("scale", SCALES)
def test_names(scale: str) -> None:
    fmt = Xnor(scale)
    assert Xnor.parse(str(fmt)) == fmt == weight_format(str(fmt))
    assert fmt.bits_per_element(3072, 768) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    "text", ["Xnor", "Xnor()", "Xnor(block)", "Xnor(64)", "Xnor(row", "Xnor(row,planes=2)"]
)
def test_no_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like Xnor\(row\)|no scale"):
        Xnor.parse(text)


@pytest.mark.parametrize("columns", [1, 7, 8, 63, 64, 100, 768])
@pytest.mark.parametrize("rows", [1, 16, 21])
def test_packing(rows: int, columns: int) -> None:
    signs = RNG.choice(np.array([-1, 1], np.int8), (rows, columns))
    bits = pack_bits(signs > 0)
    assert bits.shape == (rows, -(-columns // 8))
    np.testing.assert_array_equal(unpack_bits(bits, columns), signs)
    tiles = pack_bit_tiles(signs)
    assert tiles.shape == (-(-rows // 16), -(-columns // 64), 8, 16)
    np.testing.assert_array_equal(unpack_bit_tiles(tiles, rows, columns), signs)
    n, k = rows - 1, columns - 1
    assert (int(tiles[n // 16, k // 64, k % 64 // 8, n % 16]) >> k % 8 & 1) == (signs[n, k] > 0)


@pytest.mark.parametrize("scale", SCALES)
def test_stored_parts(scale: str) -> None:
    w = RNG.standard_normal((37, 100)).astype(np.float32)
    w[0, 0] = 0
    fmt = Xnor(scale)
    plain = fmt.quantized(w)
    tiles, attributes = fmt.tiles(plain)
    assert attributes == {"rows": 37, "columns": 100, "layout": "n16k64"}
    assert fmt.stored_bytes(37, 100, table=False) == sum(part.nbytes for part in tiles.values())
    for parts in (plain, tiles):
        np.testing.assert_array_equal(fmt.restore(parts, (37, 100)), fmt.dequantize(*fmt.quantize(w)))
        np.testing.assert_array_equal(
            fmt.restore(fmt.rows(parts, 16, 32), (16, 100)), fmt.restore(parts, (37, 100))[16:32]
        )
        assert fmt.agrees(parts, w).all()
        assert not fmt.agrees(parts, -w)[1:].any()
        assert fmt.agrees(parts, -w)[0, 0], "a zero is negative either way"


def test_lookup_tables_are_refused() -> None:
    with pytest.raises(BqcError, match=r"Xnor\(one\) is a format of linears; give lookup tables another one"):
        Xnor().table(Xnor().quantized(np.ones((4, 8))))
    with pytest.raises(BqcError, match="format of linears"):
        Xnor().stored_bytes(4, 8, table=True)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_codes_have_the_signs_of_their_values(bits: int) -> None:
    x = (RNG.standard_normal((9, 100)) * np.exp2(RNG.integers(-140, 127, (9, 1)))).astype(np.float32)
    x[:, ::7] = 0
    codes, exponents = reference.block_quantize(x, bits=bits, block=16, group=0)
    values = reference.block_dequantize(codes, exponents, block=16, group=0)
    np.testing.assert_array_equal(xnor_reference.binarize_codes(codes), xnor_reference.binarize(values))


@pytest.mark.parametrize("columns", [32, 64, 100, 768, 3072])
def test_linear_is_a_product_of_signs(columns: int) -> None:
    """Against the product of matrices of -1 and 1, whatever lies beyond the last column."""
    x = RNG.standard_normal((3, columns)).astype(np.float32)
    w = RNG.standard_normal((21, columns)).astype(np.float32)
    bias = RNG.standard_normal(21).astype(np.float32)
    fmt = Xnor("one")
    parts, _ = fmt.tiles(fmt.quantized(w))
    bits = xnor_reference.binarize(x)
    dots = np.where(x > 0, 1, -1) @ np.where(w > 0, 1, -1).T
    assert (np.abs(dots) <= columns).all()
    assert ((dots - columns) % 2 == 0).all()
    wanted = dots.astype(np.float32) + bias
    got = xnor_reference.xnor_linear(bits, parts["tiles"], parts["scales"], bias, columns=columns)
    np.testing.assert_array_equal(got, wanted)
    if columns % 64:
        at = columns // 8 % 8
        parts["tiles"][:, -1, at + 1 :] ^= 0xFF
        parts["tiles"][:, -1, at] ^= np.uint8(0xFF << columns % 8 & 0xFF)
        got = xnor_reference.xnor_linear(bits, parts["tiles"], parts["scales"], bias, columns=columns)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("approximate", [0, 1])
def test_gelu_keeps_the_sign(approximate: int) -> None:
    """Of every exponent a thousand numbers of either sign: all but positive subnormals, which `Gelu` takes for 0, and
    256 numbers where the tanh form's polynomial is above 0 just before it ends. (Of all float32 these are all.)"""
    exponents = np.arange(255, dtype=np.uint32)[:, None] << 23
    fractions = np.concatenate([[0, 1, 2**23 - 1], RNG.integers(0, 2**23, 1000)]).astype(np.uint32)
    positive = (exponents | fractions).view(np.float32).reshape(-1)
    x = np.concatenate([positive, -positive])
    kept = (reference.gelu(x, approximate=approximate) > 0) == (x > 0)
    ends = (x > -5) & (x < -4.995) if approximate else np.zeros_like(kept)
    assert kept[((x <= 0) | (x >= 2.0**-126)) & ~ends].all()
    assert not kept[(x > 0) & (x < 2.0**-126)].any()
    first, end = (int(np.float32(x).view(np.uint32)) for x in (4.995, 5.0))
    last = -np.arange(first, end, dtype=np.uint32).view(np.float32)
    assert (reference.gelu(last, approximate=approximate) > 0).sum() == (256 if approximate else 0)


def test_blocks_keep_the_sign_of_what_they_do_not_lose() -> None:
    """A point that is quantised before it is binarised loses what rounds to 0."""
    x = np.array([[127.0, 0.4, -0.4, 0.0] * 4], np.float32)
    codes, _ = reference.block_quantize(x, bits=8, block=16, group=0)
    assert unpack_bits(xnor_reference.binarize_codes(codes), 4).tolist() == [[1, -1, -1, -1]]
    assert unpack_bits(xnor_reference.binarize(x), 4).tolist() == [[1, 1, -1, -1]]

"""Kernels on sequences without padding: the bits of the definition, and those of the padded batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bqc.formats import Blocks
from bqc.ops import ragged_reference, reference
from tests.parity.test_kernels_against_reference import Array, Maker, check, model, session  # noqa: F401

LENGTHS = [
    (5,),
    (3, 0, 9, 1),
    (0, 0),
    (),
    (64, 17, 1, 130, 33),
    (300, 2),
]


def inputs(make: Maker, lengths: tuple[int, ...], heads: int, width: int, block: int) -> list[Array]:
    tokens, hidden, batch = sum(lengths), heads * width, len(lengths)
    pairs = [make.pair(tokens, hidden, block=block, group=width, low=-10, high=-4) for _ in range(2)]
    values = make.codes(tokens, hidden), make.exponents(batch, Blocks(hidden, block, width).count)
    mask = (make.r.random(tokens) < 0.7).astype(np.int64)
    seq_start = np.cumsum([0, *lengths]).astype(np.int64)
    if batch > 1:
        mask[: seq_start[1]] = 0  # nothing is kept of the first
    return [*pairs[0], *pairs[1], *values, mask, seq_start]


@pytest.mark.parametrize(("heads", "width", "block"), [(2, 32, 32), (3, 26, 16), (1, 64, 64)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention(
    check: Any,  # noqa: F811
    lengths: tuple[int, ...],
    heads: int,
    width: int,
    block: int,
) -> None:
    make = Maker(len(lengths) + width)
    everything = inputs(make, lengths, heads, width, block)
    scale = float(np.float32(width**-0.5))
    attributes = {"heads": heads, "block": block, "scale": scale, "out_bits": 8}
    check("RaggedBlockAttention", ragged_reference.ragged_block_attention, everything, attributes)


@pytest.mark.parametrize(("heads", "width", "block"), [(2, 32, 32), (3, 26, 16)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_values(
    check: Any,  # noqa: F811
    lengths: tuple[int, ...],
    heads: int,
    width: int,
    block: int,
) -> None:
    make = Maker(len(lengths) + width)
    *_, mask, seq_start = inputs(make, lengths, heads, width, block)
    x = make.floats(sum(lengths), heads * width, spread=3.0, hostile=0.1)
    attributes = {"heads": heads, "bits": 6, "block": block}
    function = ragged_reference.ragged_block_quantize_values
    check("RaggedBlockQuantizeValues", function, [x, mask, seq_start], attributes)


def test_a_sequence_gets_the_bits_of_the_padded_batch() -> None:
    make = Maker(4)
    lengths, heads, width = (7, 12, 1, 9), 2, 32
    *ragged, mask, seq_start = inputs(make, lengths, heads, width, 32)
    mask[seq_start[:-1]] = 1
    taken = np.arange(12) < np.array(lengths)[:, None]

    def padded(x: Array) -> Array:
        out = make.r.integers(-99, 99, (4, 12, *x.shape[1:])).astype(x.dtype)  # what padding holds is hidden
        out[taken] = x
        return out

    batch = [x if i == 5 else padded(x) for i, x in enumerate(ragged)]
    keep = np.zeros((4, 12), np.int64)
    keep[taken] = mask
    attributes = {"heads": heads, "block": 32, "scale": 0.25, "out_bits": 8}
    expected = reference.block_attention(*batch, keep, **attributes)
    everything = [*ragged, mask, seq_start]
    blob = model("RaggedBlockAttention", everything, set(), [ragged[0], ragged[1]], attributes)
    got = session(blob, 2).run(None, {f"in{i}": x for i, x in enumerate(everything)})
    np.testing.assert_array_equal(got[0], expected[0][taken])
    np.testing.assert_array_equal(got[1], expected[1][taken])


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([0, 3, 9], "seq_start goes from 0 to 9, not from 0 to the 8 tokens"),
        ([1, 3, 8], "seq_start goes from 1 to 8"),
        ([0, 9, 8], "seq_start goes back from 9 to 8"),
        ([0, 2**62, 8], "seq_start goes back"),
        ([0, -(2**62), 8], "seq_start goes back from 0"),
        ([], r"seq_start \[0\] should be \[sequences \+ 1\]"),
    ],
)
def test_starts_that_make_no_sense(starts: list[int], message: str) -> None:
    make = Maker(1)
    *attention, mask, _ = inputs(make, (3, 5), 2, 32, 32)
    bad = np.array(starts, np.int64)
    attributes = {"heads": 2, "block": 32, "scale": 1.0, "out_bits": 8}
    for op, given, outputs, some in (
        ("RaggedBlockAttention", [*attention, mask, bad], attention[:2], attributes),
        (
            "RaggedBlockQuantizeValues",
            [make.floats(8, 64), mask, bad],
            attention[4:6],
            {"heads": 2, "bits": 8, "block": 32},
        ),
    ):
        blob = model(op, given, set(), outputs, some)
        with pytest.raises(Exception, match=message):
            session(blob, 1).run(None, {f"in{i}": x for i, x in enumerate(given)})


@pytest.mark.parametrize(
    ("at", "shape", "message"),
    [
        (0, (8, 2, 32), r"query \[8, 2, 32\] should be \[tokens, hidden\]"),
        (2, (7, 64), r"key \[7, 64\] should be \[8, 64\]"),
        (3, (8, 3), r"key exponents \[8, 3\] should be \[8, 2\]"),
        (5, (3, 2), r"value exponents \[3, 2\] should be \[2, 2\]"),
        (6, (9,), r"mask \[9\] should be \[8\]"),
    ],
)
def test_shapes_that_do_not_fit(at: int, shape: tuple[int, ...], message: str) -> None:
    given = inputs(Maker(1), (3, 5), 2, 32, 32)
    given[at] = np.zeros(shape, given[at].dtype)
    attributes = {"heads": 2, "block": 32, "scale": 1.0, "out_bits": 8}
    blob = model("RaggedBlockAttention", given, set(), given[:2], attributes)
    with pytest.raises(Exception, match=message):
        session(blob, 1).run(None, {f"in{i}": x for i, x in enumerate(given)})

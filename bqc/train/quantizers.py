"""The operators of the qdq dialect in torch, with straight-through gradients.

Forward they compute what `bqc.ops.reference` does, to the last bit where only block scales, rounding and clamping are
involved; codes and exponents are held in floating and int32 tensors. Backward, rounding is the identity (STE, Bengio et
al., arXiv 1308.3432) within the range that an exponent covers, ``|x| <= 2**(bits - 1) * 2**exponent``, and zero outside
it. Unlike the deployed operators they let NaN and infinity through, so that a diverging loss is seen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bqc.formats import Blocks, BlockShift, Sparse
from bqc.formats.index8 import LEVELS
from bqc.formats.signs import TERNARY_THRESHOLD
from bqc.formats.sparse import ERROR_UNITS
from bqc.ops.constants import FLT_MAX, FLT_MIN, HALF_MAX, MAX_STATIC_EXPONENT, MIN_EXPONENT, SOFTMAX_SCALE

__all__ = [
    "binarize",
    "binary_dequantize",
    "block_dequantize",
    "block_quantize",
    "block_quantize_values",
    "fake_binary_weight",
    "fake_half",
    "fake_index_weight",
    "fake_quantize_weight",
    "fake_sparse_weight",
    "fake_ternary_weight",
    "fake_xnor_weight",
    "masked_softmax",
    "softmax_dequantize",
    "static_quantize",
    "static_quantize_values",
]


def block_quantize(x: Tensor, *, bits: int, block: int, group: int) -> tuple[Tensor, Tensor]:
    """Codes [..., K] (in x's type) and exponents int32 [..., n] of x [..., K]."""
    blocks = Blocks(x.shape[-1], block, group)
    exponents = _range_exponents(_split(x.detach().abs(), blocks).amax(-1), bits)
    return _Encode.apply(x, exponents, blocks, bits), exponents


def block_dequantize(codes: Tensor, exponents: Tensor, *, block: int, group: int) -> Tensor:
    """x [..., K] = codes * 2**exponents; codes and exponents of any type."""
    blocks = Blocks(codes.shape[-1], block, group)
    values = codes if codes.is_floating_point() else codes.float()
    return _scaled(values, _power_of_two(exponents, values.dtype), blocks)


def block_quantize_values(
    x: Tensor, mask: Tensor, *, heads: int, bits: int, block: int
) -> tuple[Tensor, Tensor]:
    """Codes [B, S, H] and exponents int32 [B, n] of x [B, S, H], over the tokens that mask [B, S] keeps."""
    blocks = Blocks(x.shape[-1], block, x.shape[-1] // heads)
    keep, _ = _effective_mask(mask)
    largest = (x.detach().abs() * keep.unsqueeze(-1)).amax(1)
    exponents = _range_exponents(_split(largest, blocks).amax(-1), bits)
    return _Encode.apply(x, exponents.unsqueeze(1), blocks, bits), exponents


def static_quantize(
    x: Tensor,
    exponent: Tensor,
    *,
    bits: int,
    block: int,
    group: int,
    minimum: float = -FLT_MAX,
    learn: str = "lsq",
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [..., K] (in x's type) and exponents int32 [..., n] of x [..., K] at the exponent [1], and the offset [1].

    The scale 2**round(exponent) has a gradient through the codes, all of it: as rounded, with the identity for a
    gradient (STE), and with that of the rule ``learn`` for the scale s, per element of the dequantised x:

    - ``lsq`` (Esser et al., arXiv 1902.08153): code - x/s within the range, the code at its ends;
    - ``pact`` (Choi et al., arXiv 1805.06085): the code at the ends, nothing within: what clips alone decides;
    - ``none``: nothing.

    Times s ln 2, as it is the exponent that is learned (TQT, Jain et al., arXiv 1903.08066), and times LSQ's 1 /
    sqrt(elements * largest code). Codes are counted from the zero point.
    """
    e, offset, zero = _static(exponent, bits, minimum)
    blocks = Blocks(x.shape[-1], block, group)
    codes = _StaticEncode.apply(x, exponent, e, zero, bits, learn)
    return codes, e.expand(*x.shape[:-1], blocks.count), offset


def static_quantize_values(
    x: Tensor, exponent: Tensor, *, heads: int, bits: int, block: int, learn: str = "lsq"
) -> tuple[Tensor, Tensor]:
    """As `static_quantize` of x [B, S, H] inside heads, exponents int32 [B, n]."""
    e, _, zero = _static(exponent, bits, -FLT_MAX)
    blocks = Blocks(x.shape[-1], block, x.shape[-1] // heads)
    return _StaticEncode.apply(x, exponent, e, zero, bits, learn), e.expand(x.shape[0], blocks.count)


def binarize(x: Tensor) -> Tensor:
    """Signs -1 and 1 (in x's type) of x [..., K], 0 and NaN being negative; the gradient is that of the identity.

    Source: SensiMix (PLoS ONE 10.1371/journal.pone.0265621), which clips no gradient.
    """
    return _Replace.apply(x, _signs(x))


def binary_dequantize(signs: Tensor, *, columns: int) -> Tensor:
    """Signs [..., K]; `binarize` packs none, so that ``columns`` is K."""
    return signs


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Codes [B, h, S, S] (in the type of the scores) of exp(score - row maximum) * 255; masked keys 0."""
    keep, alive = _effective_mask(mask)
    keep, alive = keep[:, None, None, :], alive[:, None, None, :]
    shown = torch.where(keep, scores * alive, -torch.inf)
    grown = torch.exp(shown - shown.detach().amax(-1, keepdim=True)) * SOFTMAX_SCALE
    return _Round.apply(grown)


def softmax_dequantize(codes: Tensor) -> Tensor:
    """Softmax codes [..., S] as probabilities."""
    return codes / codes.sum(-1, keepdim=True)


def fake_quantize_weight(w: Tensor, bits: int, block: int, group: int, axis: int) -> Tensor:
    """What `BlockShift.quantize_weights` and dequantising make of a weight, in one step.

    Args:
        w: the matrix [K, N] of a linear with ``axis`` 0, or rows [..., K] of a table with ``axis`` -1.
        bits, block, group: the format; ``block`` 0 is a whole row.
        axis: where K is.
    """
    length = w.shape[axis]
    return _FakeWeight.apply(w, Blocks(length, block or length, group), bits, axis)


def fake_binary_weight(w: Tensor, planes: int, per_row: bool, axis: int, half: bool = False) -> Tensor:
    """What `Binary.quantize` and dequantising make of a weight; the gradient is that of the identity.

    Args:
        w: the matrix [K, N] of a linear with ``axis`` 0, or rows [..., K] of a table with ``axis`` -1.
        planes: of signs.
        per_row: one scale for each output or row, not one for all.
        axis: where K is.
        half: scales are rounded to fp16.
    """
    # What the first plane leaves is more than w's type may hold.
    left = w.detach().double() if planes > 1 else w.detach()
    total = torch.zeros_like(w)
    for _ in range(planes):
        scale = _stored(_mean(left.abs().double(), per_row, axis), w.dtype, half)
        plane = torch.where(left >= 0, scale, -scale)
        total, left = total + plane, left - plane
    return _Replace.apply(w, total)


def fake_ternary_weight(w: Tensor, per_row: bool, axis: int, half: bool = False) -> Tensor:
    """What `Ternary.quantize` and dequantising make of a weight, as `fake_binary_weight`."""
    magnitudes = w.detach().abs().double()
    kept = magnitudes > TERNARY_THRESHOLD * _mean(magnitudes, per_row, axis)
    count = _sum(kept.double(), per_row, axis).clamp(min=1)
    scale = _stored(_sum(magnitudes * kept, per_row, axis) / count / 2, w.dtype, half)
    return _Replace.apply(w, torch.sign(w.detach()) * kept * (scale + scale))


def fake_half(x: Tensor) -> Tensor:
    """x rounded to fp16 and cut off at +-65504 as `bqc.formats.half.to_half` does; NaN stays. The gradient is that of
    the identity: weights in `Half`, and the operator HalfRound."""
    within = x.detach().float().clamp(-HALF_MAX, HALF_MAX)
    return _Replace.apply(x, within.half().to(x.dtype))


def fake_index_weight(w: Tensor, whole: Tensor) -> Tensor:
    """What `Index8.quantize` and reading its table make of a weight; the gradient is that of the identity.

    Args:
        w: a weight, or some rows of a table.
        whole: all of it, which the range is taken from.
    """
    every = whole.detach().float()
    low, high = (fake_half(end) for end in torch.aminmax(every))
    # Some devices multiply by the inverse of a number that is no tensor.
    step = (high - low) / torch.full_like(high, LEVELS - 1)
    values = torch.arange(LEVELS, dtype=torch.float32, device=w.device) * step + low
    values[-1] = high
    table = fake_half(values) + 0.0
    wide = table.double()
    codes = torch.bucketize(w.detach().double(), (wide[:-1] + wide[1:]) / 2)
    return _Replace.apply(w, table[codes].to(w.dtype))


def fake_xnor_weight(w: Tensor, scale: str, axis: int) -> Tensor:
    """What `Xnor.quantize` and dequantising make of a weight, as `fake_binary_weight`; ``scale`` is the format's."""
    signs = _signs(w)
    if scale != "one":
        signs = signs * _mean(w.detach().abs().double(), scale == "row", axis).to(w.dtype)
    return _Replace.apply(w, signs)


def _signs(x: Tensor) -> Tensor:
    return (x.detach() > 0).to(x.dtype) * 2 - 1


def fake_sparse_weight(w: Tensor, kept: int, of: int, bits: int, group: int) -> Tensor:
    """What `Sparse.quantize` and dequantising make of a weight: the mask is that of its present magnitudes.

    The gradient is that of the identity, of what the mask leaves out too: an element that grows comes back.

    Args:
        w: the matrix [K, N] of a linear, float32.
        kept, of, bits, group: the format.
    """
    fmt = Sparse(kept, of, bits, group)
    rows = w.detach().t().contiguous()
    clean = torch.where(rows.abs() < FLT_MIN, 0.0, rows)
    pruned = clean * _largest_of(clean.abs(), fmt)
    largest = pruned.abs().amax(1, keepdim=True)
    best = _sparse_scale(largest, fmt.shares[0], fmt)
    codes, error = _sparse_trial(pruned, best, fmt)
    for share in fmt.shares[1:]:
        scale = _sparse_scale(largest, share, fmt)
        trial, trial_error = _sparse_trial(pruned, scale, fmt)
        better = trial_error < error
        best, error = torch.where(better, scale, best), torch.where(better, trial_error, error)
        codes = torch.where(better, trial, codes)
    return _Replace.apply(w, (codes * best).t())


def _largest_of(magnitudes: Tensor, fmt: Sparse) -> Tensor:
    """`bqc.formats.sparse_layouts.keep_largest` of rows [N, K], whose groups end in as many zeros as are missing."""
    rows, columns = magnitudes.shape
    span = fmt.group or columns
    grouped = functional.pad(magnitudes.reshape(rows, -1, span), (0, -span % fmt.of))
    each = grouped.reshape(-1, fmt.of).unbind(1)
    # How many of the others come before each.
    ranks = [torch.zeros_like(each[0], dtype=torch.int8) for _ in each]
    for i in range(fmt.of):
        for j in range(i + 1, fmt.of):
            later = each[j] > each[i]
            ranks[i] += later
            ranks[j] += ~later
    kept = torch.stack(ranks, 1) < fmt.kept
    return kept.reshape(grouped.shape)[..., :span].reshape(rows, columns)


def _sparse_scale(largest: Tensor, share: float, fmt: Sparse) -> Tensor:
    # Divided by a tensor, as a GPU multiplies by the inverse of a number.
    scale = (largest * share / torch.full_like(largest, fmt.high)).clamp(FLT_MIN, FLT_MAX / (fmt.high + 1))
    return torch.where(largest == 0, 1.0, scale)


def _sparse_trial(pruned: Tensor, scale: Tensor, fmt: Sparse) -> tuple[Tensor, Tensor]:
    """Codes [N, K], of which no zero is negative, and squared errors [N, 1] in float64."""
    scaled = pruned / scale
    codes = scaled.round().clamp_(-fmt.high, fmt.high).add_(0.0)
    if len(fmt.shares) == 1:
        return codes, torch.zeros_like(scale, dtype=torch.float64)
    off = scaled - codes
    units = (off * off * ERROR_UNITS).round_().to(torch.int64).sum(1, keepdim=True)
    wide = scale.double()
    return codes, units * (wide * wide)


def _stored(scale: Tensor, dtype: torch.dtype, half: bool) -> Tensor:
    return (fake_half(scale) if half else scale).to(dtype)


def _mean(x: Tensor, per_row: bool, axis: int) -> Tensor:
    return x.mean(axis, keepdim=True) if per_row else x.mean()


def _sum(x: Tensor, per_row: bool, axis: int) -> Tensor:
    return x.sum(axis, keepdim=True) if per_row else x.sum()


class _Replace(torch.autograd.Function):
    """The second argument; the gradient goes to the first."""

    @staticmethod
    def forward(_: Any, x: Tensor, instead: Tensor) -> Tensor:
        return instead

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Round(torch.autograd.Function):
    """Round half to even; the gradient is that of the identity."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Encode(torch.autograd.Function):
    """Codes of x under given exponents."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exponents: Tensor, blocks: Blocks, bits: int) -> Tensor:
        inverse = _power_of_two(-exponents, x.dtype)
        ctx.blocks = blocks
        ctx.save_for_backward(inverse)
        return _round_and_clamp(_scaled(x, inverse, blocks), bits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        # An exponent found from the block's own maximum covers all of it; of values, what it does not cover is masked.
        (inverse,) = ctx.saved_tensors
        return _scaled(gradient, inverse, ctx.blocks), None, None, None


class _StaticEncode(torch.autograd.Function):
    """Codes of x under a given exponent and zero point, with the gradients of `static_quantize`.

    Who reads the codes multiplies them by s, so that their gradient is s times that of the dequantised x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, exponent: Tensor, e: Tensor, zero: Tensor, bits: int, learn: str
    ) -> Tensor:
        inverse, zero = _power_of_two(-e, x.dtype), zero.to(x.dtype)
        fmt = BlockShift(bits)
        scaled = x * inverse + zero
        clipped = scaled.clamp(fmt.low, fmt.high)
        codes = clipped.round()
        outside = clipped != scaled
        ctx.learns = learn != "none" and ctx.needs_input_grad[1]
        ctx.balance = math.log(2) / math.sqrt(max(x.numel(), 1) * fmt.high)
        if ctx.learns:
            # A backward pass over many numbers is memory traffic: what it multiplies by is made here.
            each = (codes - clipped) if learn == "lsq" else torch.zeros_like(codes)
            by_scale = torch.where(outside, codes - zero, each)
            ctx.save_for_backward(inverse, outside, by_scale)
        else:
            ctx.save_for_backward(inverse, outside)
        return codes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        inverse, outside, *by_scale = ctx.saved_tensors
        to_x = (gradient * inverse).masked_fill_(outside, 0)
        if not ctx.learns:
            return to_x, None, None, None, None, None
        total = torch.dot(gradient.reshape(-1), by_scale[0].reshape(-1)).reshape(1)
        return to_x, total * ctx.balance, None, None, None, None


def _static(exponent: Tensor, bits: int, minimum: float) -> tuple[Tensor, Tensor, Tensor]:
    """Exponent int32 [1], offset and zero point float [1] as `bqc.ops.static_reference` has them; no gradients."""
    given = exponent.detach().float()
    e = given.round().clamp(MIN_EXPONENT, MAX_STATIC_EXPONENT).to(torch.int32)
    low = float(BlockShift(bits).low)
    below = torch.round(torch.full_like(given, minimum) * _power_of_two(-e, torch.float32))
    zero = (low - below).clamp(low, 0)
    return e, zero * _power_of_two(e, torch.float32), zero


class _FakeWeight(torch.autograd.Function):
    """Exponents of least squared error, then codes times scales."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, blocks: Blocks, bits: int, axis: int) -> Tensor:
        parts = _split(w, blocks, axis)
        scale = _power_of_two(_best_exponents(parts, bits, axis), w.dtype)
        ctx.save_for_backward(_join(parts.abs() <= scale * 2 ** (bits - 1), blocks, axis))
        codes = _round_and_clamp(parts / scale, bits)
        return _join(codes.mul_(scale), blocks, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def _best_exponents(parts: Tensor, bits: int, axis: int) -> Tensor:
    """int32 exponents of `BlockShift.quantize_weights`; elements of a block lie along the last axis, or with
    ``axis`` 0 along the one before."""
    along = -1 if axis == -1 else -2
    best = _range_exponents(parts.abs().amax(along, keepdim=True), bits)
    top, error = best, _squared_error(parts, best, bits, along)
    for step in range(1, BlockShift(bits).exponents_tried):
        exponents = torch.clamp(top - step, min=MIN_EXPONENT)
        trial = _squared_error(parts, exponents, bits, along)
        better = trial < error
        best, error = torch.where(better, exponents, best), torch.where(better, trial, error)
    return best


def _squared_error(parts: Tensor, exponents: Tensor, bits: int, along: int) -> Tensor:
    scale = _power_of_two(exponents, parts.dtype)
    difference = _round_and_clamp(parts / scale, bits).mul_(scale).sub_(parts)
    return difference.double().square_().sum(along, keepdim=True)


def _round_and_clamp(scaled: Tensor, bits: int) -> Tensor:
    fmt = BlockShift(bits)
    return scaled.round_().clamp_(fmt.low, fmt.high)


def _scaled(x: Tensor, scale: Tensor, blocks: Blocks) -> Tensor:
    """x [..., K] with every block multiplied by its scale [..., n]; a new tensor."""
    if not _even(blocks):
        owner = torch.as_tensor(blocks.owner, device=scale.device)
        return x * scale[..., owner]
    shape = (*x.shape[:-1], blocks.count, blocks.size)
    return (x.reshape(shape) * scale.unsqueeze(-1)).reshape(x.shape)


def _split(x: Tensor, blocks: Blocks, axis: int = -1) -> Tensor:
    """[..., K] as [..., n, size], or with ``axis`` 0 [K, N] as [n, size, N]; short blocks are filled with zeros."""
    tail = x.shape[1:] if axis == 0 else ()
    lead = () if axis == 0 else x.shape[:-1]
    if not _even(blocks):
        x = x.reshape(*lead, blocks.groups, blocks.span, *tail)
        extra = blocks.per_group * blocks.size - blocks.span
        x = functional.pad(x, (0, 0, 0, extra) if axis == 0 else (0, extra))
    return x.reshape(*lead, blocks.count, blocks.size, *tail)


def _join(parts: Tensor, blocks: Blocks, axis: int) -> Tensor:
    """Inverse of `_split`."""
    tail = parts.shape[2:] if axis == 0 else ()
    lead = () if axis == 0 else parts.shape[:-2]
    if not _even(blocks):
        parts = parts.reshape(*lead, blocks.groups, -1, *tail)
        parts = parts.narrow(len(lead) + 1, 0, blocks.span)
    return parts.reshape(*lead, blocks.length, *tail)


def _even(blocks: Blocks) -> bool:
    """Whether all blocks are full."""
    return blocks.span % blocks.size == 0


def _effective_mask(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Keys kept, bool [B, S]: mask != 0, or all where nothing is; and whether anything is, bool [B, 1]."""
    keep = mask != 0
    alive = keep.any(-1, keepdim=True)
    return keep | ~alive, alive


def _range_exponents(largest: Tensor, bits: int) -> Tensor:
    """int32 exponents of blocks whose largest magnitude is given: ``ceil(log2(largest)) - (bits - 1)``."""
    pattern = largest.float().contiguous().view(torch.int32)
    ceiling = (pattern >> 23) - 127 + ((pattern & 0x7FFFFF) != 0)
    return torch.clamp(ceiling - (bits - 1), MIN_EXPONENT, -MIN_EXPONENT)


def _power_of_two(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """2**exponents, for exponents in [-126, 127]."""
    return ((exponents.to(torch.int32) + 127) << 23).view(torch.float32).to(dtype)

"""Fake quantisation equals the numpy reference, and its gradients are the straight-through ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from bqc.formats import Binary, BlockShift, Half, Index8, Sparse, Ternary, Xnor  # noqa: E402
from bqc.formats.half import to_half  # noqa: E402
from bqc.ir.synthetic import canonical_bert  # noqa: E402
from bqc.ops import reference, xnor_reference  # noqa: E402
from bqc.passes._graph import key_of  # noqa: E402
from bqc.passes._weights import weight_uses  # noqa: E402
from bqc.plan import Plan  # noqa: E402
from bqc.schemes.lowering import lowering, simulation  # noqa: E402
from bqc.train import module, quantizers  # noqa: E402

RNG = np.random.default_rng(0)
GEOMETRIES = [(96, 32, 0), (52, 16, 26), (40, 64, 0), (96, 16, 48), (27, 16, 0)]


def floats(*shape: int) -> Any:
    x = RNG.standard_normal(shape) * np.exp2(RNG.integers(-12, 12, (*shape[:-1], 1)))
    x[..., 0] = 0.0
    x.reshape(-1)[1] = 2.0**5  # a power of two as a maximum
    return x.astype(np.float32)


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize(("length", "block", "group"), GEOMETRIES)
def test_activations(bits: int, length: int, block: int, group: int) -> None:
    x = floats(3, 5, length)
    x[1, 2] = 0
    codes, exponents = reference.block_quantize(x, bits=bits, block=block, group=group)
    t = torch.from_numpy(x).requires_grad_()
    ours, ours_exponents = quantizers.block_quantize(t, bits=bits, block=block, group=group)
    np.testing.assert_array_equal(ours.detach().numpy(), codes)
    np.testing.assert_array_equal(ours_exponents.numpy(), exponents)
    y = quantizers.block_dequantize(ours, ours_exponents, block=block, group=group)
    expected = reference.block_dequantize(codes, exponents, block=block, group=group)
    np.testing.assert_array_equal(y.detach().numpy(), expected)
    stored = quantizers.block_dequantize(
        torch.from_numpy(codes), torch.from_numpy(exponents), block=block, group=group
    )
    np.testing.assert_array_equal(stored.numpy(), expected)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    y.backward(gradient)
    torch.testing.assert_close(t.grad, gradient, rtol=0, atol=1e-6)  # a block of zeros has a tiny scale


@pytest.mark.parametrize("block", [16, 64])
def test_values(block: int) -> None:
    x = floats(3, 7, 52)
    mask = np.ones((3, 7), np.int64)
    mask[0, 4:] = 0
    mask[2] = 0
    codes, exponents = reference.block_quantize_values(x, mask, heads=2, bits=8, block=block)
    ours, ours_exponents = quantizers.block_quantize_values(
        torch.from_numpy(x), torch.from_numpy(mask), heads=2, bits=8, block=block
    )
    np.testing.assert_array_equal(ours.numpy(), codes)
    np.testing.assert_array_equal(ours_exponents.numpy(), exponents)


def test_softmax() -> None:
    scores = (RNG.standard_normal((3, 2, 9, 9)) * 4).astype(np.float32)
    mask = np.ones((3, 9), np.int64)
    mask[0, 6:] = 0
    mask[1, :4] = 0
    mask[2] = 0
    t = torch.from_numpy(scores).requires_grad_()
    codes = quantizers.masked_softmax(t, torch.from_numpy(mask))
    expected = reference.masked_softmax(scores, mask)
    difference = np.abs(codes.detach().numpy() - expected)
    assert difference.max() <= 1  # exp and the kernel's polynomial differ in the last bits
    assert (difference > 0).mean() < 0.001
    p = quantizers.softmax_dequantize(codes)
    gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    p.backward(gradient)
    soft = torch.from_numpy(scores).requires_grad_()
    keep = torch.from_numpy(mask)[:, None, None, :] != 0
    shown = torch.where(keep, soft, -torch.inf)
    torch.softmax(shown[:2], -1).backward(gradient[:2])
    torch.testing.assert_close(t.grad[:2], soft.grad[:2], atol=0.05, rtol=0.1)
    assert (t.grad[2] == 0).all()


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
@pytest.mark.parametrize(("length", "block", "group"), [*GEOMETRIES, (96, "row", 0)])
def test_weights(bits: int, length: int, block: int | str, group: int) -> None:
    w = (RNG.standard_t(3, (33, length)) * 0.05).astype(np.float32)
    w[3] = 0
    fmt = BlockShift(bits, block, group)
    expected = fmt.dequantize(*fmt.quantize_weights(w))
    size = block if isinstance(block, int) else 0
    matrix = quantizers.fake_quantize_weight(torch.from_numpy(w.T.copy()), bits, size, group, 0)
    np.testing.assert_array_equal(matrix.numpy().T, expected)
    rows = quantizers.fake_quantize_weight(torch.from_numpy(w)[None], bits, size, group, -1)
    np.testing.assert_array_equal(rows.numpy()[0], expected)


def test_gradient_of_a_weight_stops_outside_its_range() -> None:
    # Fifteen weights of 1 and one of 3.5: at 2 bits the best scale is 1, whose range ends at 2.
    w = torch.ones(16, 1)
    w[5] = 3.5
    w.requires_grad_()
    quantised = quantizers.fake_quantize_weight(w, 2, 16, 0, 0)
    assert quantised.detach().unique().tolist() == [1.0]
    quantised.sum().backward()
    assert w.grad.squeeze().tolist() == [float(i != 5) for i in range(16)]


def test_nan_is_seen() -> None:
    x = torch.zeros(1, 32)
    x[0, 3] = torch.nan
    codes, exponents = quantizers.block_quantize(x, bits=8, block=16, group=0)
    assert quantizers.block_dequantize(codes, exponents, block=16, group=0).isnan().any()


@pytest.mark.parametrize("span", ["tensor", "row"])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("scales", ["fp32", "fp16"])
@pytest.mark.parametrize("make", [Binary, Ternary, lambda span, **more: Binary(span, planes=2, **more)])
def test_signs(make: Any, scales: str, span: str, axis: int) -> None:
    fmt, half = make(span, scales=scales), scales == "fp16"
    w = (RNG.standard_normal((23, 40)) + 0.2).astype(np.float32)
    w[3] = 0
    w[:, 5] = 0
    expected = fmt.dequantize(*fmt.quantize(w))
    t = torch.from_numpy(w.T.copy() if axis == 0 else w).requires_grad_()
    per_row = span == "row"
    if isinstance(fmt, Ternary):
        ours = quantizers.fake_ternary_weight(t, per_row, axis, half)
    else:
        ours = quantizers.fake_binary_weight(t, fmt.planes, per_row, axis, half)
    got = ours.detach().numpy()
    np.testing.assert_array_equal(got.T if axis == 0 else got, expected)
    assert ((got.T if axis == 0 else got) == 0).sum() == (expected == 0).sum()
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    ours.backward(gradient)
    np.testing.assert_array_equal(t.grad.numpy(), gradient.numpy())  # the identity, not clipped


def every_half_and_middle() -> np.ndarray:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide = np.unique(every[np.isfinite(every)].astype(np.float32))
    at = np.concatenate([wide, (wide[1:] + wide[:-1]) / 2])
    more = np.array([7e4, -np.inf, np.inf], np.float32)
    return np.concatenate([at, np.nextafter(at, np.float32(9e9)), more])


def test_fp16() -> None:
    x = every_half_and_middle()
    t = torch.from_numpy(x).requires_grad_()
    ours = quantizers.fake_half(t)
    assert ours.detach().numpy().tobytes() == to_half(x).astype(np.float32).tobytes()
    ours.backward(torch.arange(len(x), dtype=torch.float32))
    np.testing.assert_array_equal(t.grad.numpy(), np.arange(len(x), dtype=np.float32))
    assert quantizers.fake_half(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.parametrize("scale", [1e-6, 0.05, 3.0, 1e4])
@pytest.mark.parametrize("shift", [0.0, 0.3, -2.0])
def test_indices(scale: float, shift: float) -> None:
    w = (RNG.standard_normal((23, 40)) * scale + shift * scale).astype(np.float32)
    expected = Index8().restore(Index8().parts(w), w.shape)
    t = torch.from_numpy(w).requires_grad_()
    ours = quantizers.fake_index_weight(t, t)
    assert ours.detach().numpy().tobytes() == expected.tobytes()
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    ours.backward(gradient)
    np.testing.assert_array_equal(t.grad.numpy(), gradient.numpy())
    # Some rows of a table: the range is that of all of it.
    rows = quantizers.fake_index_weight(t[5:7], t)
    assert rows.detach().numpy().tobytes() == expected[5:7].tobytes()


@pytest.mark.parametrize("fmt", [Half(), Index8()], ids=str)
def test_a_module_computes_what_is_compiled(fmt: Any) -> None:
    """Linears and tables in these formats, trained; the gradient reaches all of them."""
    model = canonical_bert(layers=1, hidden=32, heads=2, ffn=48)
    plan = Plan("bbct", {key_of(node): fmt for node, _, _ in weight_uses(model)})
    plan.attach(model)
    for one in simulation():
        one(model)
    made = module(model, weights=plan.weights)
    ids = torch.from_numpy(RNG.integers(0, 100, (2, 7)))
    feeds = {name: torch.ones_like(ids) for name in made.input_names}
    feeds["input_ids"] = ids
    (got,) = made(**feeds).values()
    got.sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    for one in lowering():
        if type(one).__name__ != "QuantizeActivations":
            one(model)
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {name: value.numpy() for name, value in feeds.items()})[0]
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", ["one", "tensor", "row"])
@pytest.mark.parametrize("axis", [0, -1])
def test_weights_for_products_of_signs(scale: str, axis: int) -> None:
    w = (RNG.standard_normal((23, 40)) + 0.2).astype(np.float32)
    w[3] = 0
    w[:, 5] = -0.0
    expected = Xnor(scale).dequantize(*Xnor(scale).quantize(w))
    t = torch.from_numpy(w.T.copy() if axis == 0 else w).requires_grad_()
    ours = quantizers.fake_xnor_weight(t, scale, axis)
    got = ours.detach().numpy()
    np.testing.assert_array_equal(got.T if axis == 0 else got, expected)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    ours.backward(gradient)
    np.testing.assert_array_equal(t.grad.numpy(), gradient.numpy())  # the identity, not clipped


def test_signs_of_inputs() -> None:
    x = floats(3, 5, 27) * 8
    x[0, 0, :6] = [0.0, -0.0, np.nan, 1e-45, np.inf, -np.inf]
    expected = xnor_reference.binary_dequantize(xnor_reference.binarize(x), columns=27)
    t = torch.from_numpy(x).requires_grad_()
    ours = quantizers.binary_dequantize(quantizers.binarize(t), columns=27)
    np.testing.assert_array_equal(ours.detach().numpy(), expected)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    ours.backward(gradient)
    np.testing.assert_array_equal(t.grad.numpy(), gradient.numpy())  # beyond [-1, 1] too


@pytest.mark.parametrize("group", [0, 26])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (2, 8), (4, 8)])
def test_sparse(kept: int, of: int, bits: int, group: int) -> None:
    fmt = Sparse(kept, of, bits, group)
    w = RNG.standard_normal((43, 52)).astype(np.float32)
    w[3] = 0
    w[5] = np.round(w[5])  # with equal ones
    w[:, 7] = 0
    w[4] *= np.float32(2.0**-126)
    w[6, :4] = [2.0**-127, -0.0, 3e38, -3e38]
    w[8, 9] = 40  # to be clipped
    expected = fmt.dequantize(*fmt.quantize(w))
    t = torch.from_numpy(w.T.copy()).requires_grad_()
    ours = quantizers.fake_sparse_weight(t, kept, of, bits, group)
    assert ours.detach().numpy().T.tobytes() == expected.tobytes()
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    ours.backward(gradient)
    np.testing.assert_array_equal(t.grad.numpy(), gradient.numpy())  # the identity, of what is left out too


def test_a_sparse_weight_that_grows_comes_back() -> None:
    t = torch.tensor([[3.0], [2.0], [1.0], [0.5]])
    before = quantizers.fake_sparse_weight(t, 2, 4, 8, 0)
    t[3] = 4.0
    after = quantizers.fake_sparse_weight(t, 2, 4, 8, 0)
    assert (before != 0).flatten().tolist() == [True, True, False, False]
    assert (after != 0).flatten().tolist() == [True, False, False, True]

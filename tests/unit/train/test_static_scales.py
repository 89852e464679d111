"""Gradients of static scales are the papers' formulas, and scales begin where the squared error is least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from bqc.formats import Static  # noqa: E402
from bqc.formats.static import GELU_MINIMUM  # noqa: E402
from bqc.ir.synthetic import canonical_bert  # noqa: E402
from bqc.ops.constants import FLT_MAX  # noqa: E402
from bqc.ops.static_reference import static_quantize, static_quantize_values  # noqa: E402
from bqc.passes._graph import constant  # noqa: E402
from bqc.plan import Plan  # noqa: E402
from bqc.train import module, quantizers  # noqa: E402
from bqc.train.calibration import best_exponent, calibrate  # noqa: E402
from bqc.train.examples import MASK  # noqa: E402
from bqc.train.prepared import prepare  # noqa: E402

RNG = np.random.default_rng(0)
MINIMUM = {"minimum": GELU_MINIMUM}
TINY = {"layers": 2, "hidden": 48, "heads": 2, "ffn": 72}


def dequantized(x: Any, exponent: Any, **attributes: Any) -> Any:
    codes, exponents, offset = quantizers.static_quantize(x, exponent, **attributes)
    y = quantizers.block_dequantize(codes, exponents, block=attributes["block"], group=attributes["group"])
    return y - offset


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("more", [{}, MINIMUM, {"minimum": 0.0}])
@pytest.mark.parametrize("exponent", [-5.0, -2.5, -0.4])
def test_forward_is_the_reference(bits: int, more: dict[str, float], exponent: float) -> None:
    x = RNG.standard_normal((3, 5, 48)).astype(np.float32)
    attributes = {"bits": bits, "block": 48, "group": 24, "minimum": -FLT_MAX, **more}
    theirs = static_quantize(x, np.array([exponent], np.float32), **attributes)
    ours = quantizers.static_quantize(torch.from_numpy(x), torch.tensor([exponent]), **attributes)
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.numpy(), wanted)
    values = {"heads": 2, "bits": bits, "block": 16}
    theirs = static_quantize_values(x, np.array([exponent], np.float32), **values)
    ours = quantizers.static_quantize_values(torch.from_numpy(x), torch.tensor([exponent]), **values)
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.numpy(), wanted)


@pytest.mark.parametrize("learn", ["lsq", "pact", "none"])
def test_gradients_by_hand(learn: str) -> None:
    """Scale 1/2, codes from -8 to 7: x/s is 0.6, 2.3, -1.5, 9, -20, and 7 at the end of the range."""
    x = torch.tensor([0.3, 1.15, -0.75, 4.5, -10.0, 3.5], requires_grad=True)
    exponent = torch.tensor([-1.2], requires_grad=True)
    y = dequantized(x, exponent, bits=4, block=6, group=0, learn=learn)
    assert y.tolist() == [0.5, 1.0, -1.0, 3.5, -4.0, 3.5]
    upstream = torch.tensor([1.0, 2.0, 3.0, 5.0, 7.0, 11.0])
    y.backward(upstream)
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 0.0, 0.0, 11.0]  # the identity within the range, else nothing
    inside = {"lsq": [1 - 0.6, 2 - 2.3, -2 + 1.5, 0.0], "pact": [0.0] * 4}
    if learn == "none":
        assert exponent.grad is None
        return
    at = inside[learn]
    by_scale = [at[0], at[1], at[2], 7.0, -8.0, at[3]]
    total = sum(g * d for g, d in zip(upstream.tolist(), by_scale, strict=True))
    # d s / d exponent = s ln 2; LSQ's gradient scale is 1 / sqrt(N Q_P).
    wanted = total * 0.5 * math.log(2) / math.sqrt(6 * 7)
    assert exponent.grad.item() == pytest.approx(wanted, rel=1e-5)


def test_lsq_is_the_derivative_of_the_papers_quantiser() -> None:
    """The formula of section 2.1 written with a step, its rounding taken for the identity, by autograd."""
    x = torch.randn(200, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(200, generator=torch.Generator().manual_seed(1))
    exponent = torch.tensor([-2.0], requires_grad=True)
    dequantized(x, exponent, bits=4, block=200, group=0).backward(upstream)
    step = torch.tensor(0.25, requires_grad=True)
    clipped = (x / step).clamp(-8, 7)
    rounded = clipped + (clipped.round() - clipped).detach()
    (rounded * step).backward(upstream)
    wanted = step.grad.item() * 0.25 * math.log(2) / math.sqrt(200 * 7)
    assert exponent.grad.item() == pytest.approx(wanted, rel=1e-4)


def test_pact_is_the_derivative_of_the_clipping_bound() -> None:
    """Of arXiv 1805.06085, equation 1, by alpha: 1 where x is clipped, else 0; here alpha is 15 steps."""
    x = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 8
    exponent = torch.tensor([-2.0], requires_grad=True)
    dequantized(x, exponent, bits=4, block=100, group=0, minimum=0.0, learn="pact").sum().backward()
    alpha = 15 * 0.25
    wanted = (x > alpha).sum().item() * alpha * math.log(2) / math.sqrt(100 * 7)
    assert exponent.grad.item() == pytest.approx(wanted, rel=1e-5)


def test_codes_are_counted_from_the_zero_point() -> None:
    """GELU's: scale 1/4, zero point -7, so that x/s reaches from -1 to 14."""
    x = torch.tensor([-0.17, 0.3, 3.4, 100.0, -3.0], requires_grad=True)
    exponent = torch.tensor([-2.0], requires_grad=True)
    y = dequantized(x, exponent, bits=4, block=5, group=0, **MINIMUM)
    assert y.tolist() == [-0.25, 0.25, 3.5, 3.5, -0.25]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    total = (-1 + 0.68) + (1 - 1.2) + (14 - 13.6) + 14 - 1
    wanted = total * 0.25 * math.log(2) / math.sqrt(5 * 7)
    assert exponent.grad.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("fmt", [Static(8), Static(4), Static(4, minimum=GELU_MINIMUM)])
def test_the_best_exponent_has_the_least_error(fmt: Static) -> None:
    x = np.abs(RNG.standard_normal(4000)).astype(np.float32) * 3
    x[0] = 200.0
    best = best_exponent(torch.from_numpy(x), fmt)
    errors = {}
    for exponent in range(-10, 8):
        tried = Static(fmt.bits, exponent, fmt.minimum)
        errors[exponent] = float(np.square(tried.dequantize(*tried.quantize(x[None])) - x).sum())
    assert best == min(errors, key=lambda one: (errors[one], -one))
    assert best_exponent(torch.zeros(5), fmt) == 0


def batch(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask = np.ones((3, 7), np.int64)
    mask[0, 4:] = 0
    feeds = {"input_ids": rng.integers(0, 100, (3, 7)), "attention_mask": mask, MASK: mask}
    feeds["token_type_ids"] = rng.integers(0, 2, (3, 7))
    return {name: torch.from_numpy(value) for name, value in feeds.items()}


def prepared(bits: int = 4, **options: Any) -> Any:
    model = canonical_bert(**TINY)
    wanted = {"activations": "static", "activation_bits": bits, **options}
    return prepare(model, "binarybert", wanted).calibrated([batch(), batch(1)])


def test_calibration_looks_at_the_float_model_without_its_padding() -> None:
    ready = prepared()
    assert not ready.plan.unscaled
    exponents = {
        node.inputs[1].name: constant(node.inputs[1])
        for node in ready.graph.graph
        if node.op_type.startswith("StaticQuantize")
    }
    assert len(exponents) == 16  # of 2 layers 7, the embedding, the pooler
    assert all(e is not None and e[0] == round(float(e[0])) for e in exponents.values())
    # What is at masked places does not matter to any point but the sums that padding takes part in.
    other = batch()
    other["input_ids"][0, 4:] = 7
    again = calibrate(ready.graph, [other, batch(1)])
    assert again["embedding:embedding.norm"] == ready.plan.activations["embedding:embedding.norm"]


@pytest.mark.parametrize("learn", ["lsq", "pact", "none"])
def test_scales_are_parameters_that_go_back_into_the_plan(learn: str) -> None:
    ready = prepared()
    net = module(ready.graph, weights=ready.plan.weights, lower=ready.lowered, learn=learn)
    assert set(net.scales.values()) == {
        key for key, fmt in ready.plan.activations.items() if isinstance(fmt, Static)
    }
    feeds = {name: value for name, value in batch().items() if name in net.input_names}
    net.train()(**feeds)["logits"].square().sum().backward()
    moved = [net.parameter(name) for name in net.scales]
    if learn == "none":
        assert not any(one.requires_grad for one in moved)
    else:
        assert all(one.grad is not None for one in moved)
        assert any(float(one.grad.abs()) > 0 for one in moved)
    with torch.no_grad():
        for i, one in enumerate(moved):
            one += 0.1 * i
    net.write_back(ready.model)
    formats = Plan.of(ready.model).activations
    for name, point in net.scales.items():
        assert np.float32(formats[point].exponent) == np.float32(net.parameter(name).item())
    assert not any(name.startswith("bqc.exponent") for name in ready.model.graph.initializers)


def test_the_module_in_evaluation_mode_is_the_lowered_graph() -> None:
    ready = prepared(weights="two-plane")
    net = module(ready.graph, weights=ready.plan.weights, lower=ready.lowered)
    feeds = {name: value for name, value in batch().items() if name in net.input_names}
    with torch.no_grad():
        for name in net.scales:
            net.parameter(name).sub_(0.8)
        close = net.train()(**feeds)["logits"]
        exact = net.eval()(**feeds)["logits"]
    # Codes may fall on the other side of a boundary where float sums differ in their last bits.
    torch.testing.assert_close(close, exact, rtol=0, atol=0.1)
    import onnxruntime

    lowered = ready.lowered(net)
    data = ir.to_proto(lowered).SerializeToString()
    theirs = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(
        None, {name: value.numpy() for name, value in feeds.items()}
    )[0]
    np.testing.assert_array_equal(exact.numpy(), theirs)

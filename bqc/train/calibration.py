"""Static scales to begin with: what the float model's activations are quantised with least error by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx

from bqc.formats import Static
from bqc.ops.constants import FLT_MAX, MAX_STATIC_EXPONENT, MIN_EXPONENT
from bqc.plan import Plan
from bqc.train.examples import MASK
from bqc.train.module import OnnxModule, module
from bqc.train.quantizers import static_quantize, static_quantize_values

__all__ = ["best_exponent", "calibrate"]

SAMPLES = 1 << 15
"""Numbers of a point that are kept of a batch, evenly spaced."""
OCTAVES = 10
"""Exponents that are tried below the one that clips nothing."""


def calibrate(graph: ir.Model, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, Static]:
    """Formats with exponents for the static points of a planned graph.

    The graph is run in float, weights and activations, so that no error of one point is in the scale of the next;
    softmax alone is in codes.

    Args:
        graph: as `bqc.passes.quantize_activations` leaves it, weights float.
        batches: inputs by name, and their mask as ``bqc_mask``.
    """
    net = module(graph, learn="none").eval()
    seen = _Observer(net)
    with torch.no_grad():
        for batch in batches:
            seen.mask = batch[MASK].bool()
            seen.run(*(batch[name] for name in net.input_names))
    formats = Plan.of(graph).activations
    found: dict[str, Static] = {}
    for point, parts in seen.samples.items():
        fmt = formats[point]
        assert isinstance(fmt, Static), "it has a scale"
        exponent = best_exponent(torch.cat(parts), fmt)
        found[point] = Static(fmt.bits, exponent, fmt.minimum, fmt.group)
    return found


def best_exponent(x: Tensor, fmt: Static) -> int:
    """The exponent by which numbers [n] are quantised with the least squared error; the largest of several."""
    largest = float(x.abs().amax()) if x.numel() else 0.0
    if largest == 0:
        return 0
    top = int(torch.frexp(torch.tensor(largest)).exponent) - (fmt.bits - 1)
    tried = {min(max(top - step, MIN_EXPONENT), MAX_STATIC_EXPONENT): None for step in range(OCTAVES + 1)}
    errors = {exponent: _error(x, exponent, fmt) for exponent in tried}
    return min(errors, key=lambda exponent: (errors[exponent], -exponent))


def _error(x: Tensor, exponent: int, fmt: Static) -> float:
    minimum = -FLT_MAX if fmt.minimum is None else fmt.minimum
    at = torch.tensor([float(exponent)])
    codes, _, offset = static_quantize(x, at, bits=fmt.bits, block=len(x), group=0, minimum=minimum)
    return float((codes.double() * 2.0**exponent - offset - x).square().sum())


class _Observer(fx.Interpreter):
    """Runs a module without its static quantisation, and keeps of what was to be quantised."""

    def __init__(self, net: OnnxModule) -> None:
        super().__init__(net.graph)
        parameters = net.initializers()
        self._points = {id(parameters[name]): point for name, point in net.scales.items()}
        self.samples: dict[str, list[Tensor]] = {point: [] for point in net.scales.values()}
        self.mask = torch.empty(0)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target not in (static_quantize, static_quantize_values):
            return super().call_function(target, args, kwargs)
        x, exponent = args
        self._keep(self._points[id(exponent)], x)
        values = target is static_quantize_values
        count = kwargs["heads"] if values else x.shape[-1] // (kwargs["group"] or x.shape[-1])
        none = torch.zeros(
            *(x.shape[:1] if values else x.shape[:-1]), count, dtype=torch.int32, device=x.device
        )
        return (x, none) if values else (x, none, torch.zeros(1, device=x.device))

    def _keep(self, point: str, x: Tensor) -> None:
        # What is one row a sequence has no padding.
        kept = x[self.mask] if x.shape[:-1] == self.mask.shape else x
        flat = kept.float().reshape(-1)
        self.samples[point].append(flat[:: max(1, -(-len(flat) // SAMPLES))].clone())

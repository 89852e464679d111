"""A float or qdq graph as a `torch.nn.Module`: initializers are parameters, every node is one call.

The graph is written out as a `torch.fx` graph, so that a step costs straight-line Python, `print(module.code)` shows
it and `torch.compile` takes it whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from bqc.errors import BqcError
from bqc.formats import Static
from bqc.formats.stored import WeightFormat
from bqc.ir import import_model
from bqc.ir.anatomy import ANATOMY_KEY
from bqc.ops.constants import MAX_STATIC_EXPONENT, MIN_EXPONENT
from bqc.plan import PLAN_KEY, Plan
from bqc.train.deployed import Deployed
from bqc.train.taps import resolve
from bqc.train.tracing import Settings, trace
from bqc.train.untying import untie

__all__ = ["OnnxModule", "module"]


def module(
    model: ir.Model | str | os.PathLike[str],
    *,
    weights: Mapping[str, WeightFormat] | None = None,
    taps: Sequence[str] = (),
    dropout: Mapping[str, float] | None = None,
    frozen: Iterable[str] = (),
    sparse_tables: bool = False,
    fused_attention: bool = True,
    learn: str = "lsq",
    lower: Callable[[OnnxModule], ir.Model] | None = None,
) -> OnnxModule:
    """Make a trainable module of a graph.

    Args:
        model: an annotated float or qdq graph (`bqc.ir.import_model`), or the path of a float ``.onnx`` file, which
            is imported. Biases and norms that the graph stores once for several uses get an initializer for each
            (`bqc.train.untying`), in place.
        weights: formats by ``layer:role``: these float weights are fake-quantised on every forward pass.
        taps: intermediate values to return beside the outputs, by ``layer:role``; see `bqc.train.taps`.
        dropout: probabilities by role, applied in training mode; see `bqc.train.dropout`.
        frozen: patterns of weights (``role``, ``layer:role``, with ``*``) that get no gradient.
        sparse_tables: gradients of lookup tables are sparse tensors (for SGD, SparseAdam).
        fused_attention: run attention by `scaled_dot_product_attention` where nothing looks inside it. It has no second
            derivative.
        learn: how static scales are learned: ``lsq``, ``pact``, or ``none`` (`bqc.train.quantizers.static_quantize`).
        lower: makes the compiled graph of the module, as `bqc.train.prepared.Prepared.lowered` does. With it, the
            module in evaluation mode computes what that graph does, to the last bit, without gradients and taps.

    Raises:
        BqcError: an operator that is not in `bqc.train.operators`, or a pattern or tap that matches nothing.
    """
    loaded = model
    if not isinstance(loaded, ir.Model) or ANATOMY_KEY not in loaded.metadata_props:
        loaded, _ = import_model(loaded)
    untie(loaded)
    settings = Settings(
        dict(weights or {}), resolve(loaded, taps), dict(dropout or {}), sparse_tables, fused_attention, learn
    )
    return OnnxModule(loaded, settings, tuple(frozen), lower)


class OnnxModule(torch.nn.Module):
    """What `module` returns.

    Float initializers of rank 1 and more are parameters, other initializers that the computation needs are buffers,
    both under their ONNX names wherever torch allows the name.

    Attributes:
        input_names: inputs of the graph; `forward` takes them as keywords, int64 ``[batch, sequence]``.
        output_names: outputs of the graph.
        taps: names of the intermediate values that are returned too.
        scales: ONNX names of the parameters that are static scales -> ``layer:role`` of their points.
    """

    def __init__(
        self,
        model: ir.Model,
        settings: Settings,
        frozen: tuple[str, ...] = (),
        lower: Callable[[OnnxModule], ir.Model] | None = None,
    ) -> None:
        super().__init__()
        self._deployed = None if lower is None else Deployed(lower)
        traced = trace(model, settings)
        self.graph = traced.module
        self.input_names = tuple(value.name or "" for value in model.graph.inputs)
        self.output_names = tuple(value.name or "" for value in model.graph.outputs)
        self.taps = settings.taps
        self._keys, self.scales = traced.keys, traced.scales
        unlearned = set(self.scales) if settings.learn == "none" else set()
        for name in traced.matching(frozen) | unlearned:
            self.parameter(name).requires_grad_(False)

    def forward(self, **feeds: Tensor) -> dict[str, Tensor]:
        """Outputs and taps by name; only outputs, those of the compiled graph, where `module` was given ``lower`` and
        this is evaluation mode. Inputs that the graph does not have are left aside.

        Raises:
            BqcError: an input of the graph is missing.
        """
        missing = [name for name in self.input_names if name not in feeds]
        if missing:
            raise BqcError(f"the model needs the input {missing[0]} (given: {', '.join(feeds) or 'none'})")
        if self._deployed is not None and not self.training:
            return self._deployed(self, feeds)
        results = self.graph(*(feeds[name] for name in self.input_names))
        return dict(zip((*self.output_names, *self.taps), results, strict=True))

    @property
    def code(self) -> str:
        """The forward pass as Python."""
        return str(self.graph.code)

    def parameter(self, name: str) -> torch.nn.Parameter:
        """The parameter of an initializer. Raises KeyError if it is none."""
        return dict(self.graph.named_parameters())[self._keys[name]]

    def initializers(self) -> dict[str, torch.nn.Parameter]:
        """ONNX name -> parameter."""
        known = dict(self.graph.named_parameters())
        return {name: known[key] for name, key in self._keys.items() if key in known}

    def write_back(self, model: ir.Model) -> None:
        """Put the parameters into the initializers of a graph, bit for bit; types and labels stay.

        Static scales go into its plan, where it has one, with all of their digits.

        ``model`` is the graph that the module was made of, as `bqc.ir.import_model` returns it, or an earlier dialect
        of it with the same initializers; not the file's own graph, whose weights have other names and layouts.

        Raises:
            BqcError: it is not imported, lacks a parameter, or has it in another shape.
        """
        if ANATOMY_KEY not in model.metadata_props:
            raise BqcError(
                "cannot write parameters back into a graph that is not imported: pass the model that "
                "bqc.ir.import_model returned, to module() too"
            )
        untie(model)
        known = model.graph.initializers
        if self.scales and PLAN_KEY in model.metadata_props:
            self._write_scales(model)
        for name, parameter in self.initializers().items():
            value = known.get(name)
            if name in self.scales and value is None:
                continue
            data = parameter.detach().cpu().numpy()
            if value is None or value.const_value is None or value.const_value.shape.numpy() != data.shape:
                raise BqcError(
                    f"cannot write {name} {data.shape} back: the graph has no such initializer; pass the model that "
                    "module() was given"
                )
            stored = np.array(data.astype(value.const_value.numpy().dtype))
            value.const_value = ir.Tensor(stored, name=name)

    def _write_scales(self, model: ir.Model) -> None:
        plan, known = Plan.of(model), self.initializers()
        for name, point in self.scales.items():
            fmt = plan.activations[point]
            assert isinstance(fmt, Static), "the plan that the graph was made by"
            number = float(known[name].detach().clamp(MIN_EXPONENT, MAX_STATIC_EXPONENT))
            plan.activations[point] = replace(fmt, exponent=number)
        plan.attach(model)

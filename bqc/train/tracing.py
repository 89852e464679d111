"""From an ONNX graph to a `torch.fx` graph.

Values computed from sizes (`Shape` and what follows it) are Python numbers, not tensors. Where ONNX spells out what
torch has as one function, the graph calls that function: a linear, attention, a lookup.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, fx
from torch.nn import functional

from bqc.errors import BqcError
from bqc.formats import Binary, BlockShift, Half, Index8, Sparse, Ternary, Xnor
from bqc.formats.stored import WeightFormat
from bqc.ir.anatomy import ROLE_KEY, role
from bqc.passes._graph import attributes_of, constant, key_of, produced_by, single_use
from bqc.passes._weights import latents, weight_uses
from bqc.plan import matching
from bqc.train.dropout import drops
from bqc.train.operators import OPERATORS, SIZES, Operator, supported
from bqc.train.quantizers import (
    fake_binary_weight,
    fake_half,
    fake_index_weight,
    fake_quantize_weight,
    fake_sparse_weight,
    fake_ternary_weight,
    fake_xnor_weight,
)
from bqc.train.taps import tapped

__all__ = ["Settings", "Traced", "trace"]


@dataclass(frozen=True)
class Settings:
    """What `bqc.train.module` was asked for; its arguments of the same names."""

    weights: dict[str, WeightFormat] = field(default_factory=dict)
    taps: tuple[str, ...] = ()
    dropout: dict[str, float] = field(default_factory=dict)
    sparse_tables: bool = False
    fused_attention: bool = True
    learn: str = "lsq"


@dataclass(frozen=True)
class Traced:
    """A graph as a module, and what its parts are called."""

    module: fx.GraphModule
    keys: dict[str, str]
    """Initializer -> its parameter or buffer in ``module``."""
    weights: dict[str, set[str]]
    """``layer:role`` -> parameters with that label."""
    scales: dict[str, str]
    """Initializer that is a static scale -> ``layer:role`` of its point."""

    def matching(self, patterns: Iterable[str]) -> set[str]:
        """Parameters whose label matches a pattern. Raises BqcError for a pattern without any."""
        found = matching(self.weights, patterns, "frozen")
        return {name for key in found for name in self.weights[key]}


def trace(model: ir.Model, settings: Settings) -> Traced:
    """Write out the graph. Raises BqcError for an operator that is not supported, and for unknown taps."""
    return _Tracer(model, settings).run()


class _Attention(torch.nn.Module):
    """softmax(q k^T * scale + bias) v, with dropout on the probabilities in training."""

    def __init__(self, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale, self.dropout = scale, dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *biases: Tensor) -> Tensor:
        mask = sum(biases[1:], biases[0]).to(q.dtype) if biases else None
        dropout = self.dropout if self.training else 0.0
        return functional.scaled_dot_product_attention(
            q, k.transpose(-1, -2), v, attn_mask=mask, dropout_p=dropout, scale=self.scale
        )


class _Tracer:
    """The fx graph in the making; ``env`` holds what every ONNX value has become."""

    def __init__(self, model: ir.Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.env: dict[ir.Value, Any] = {}
        self.sizes: set[ir.Value] = set()
        self.lengths: set[ir.Value] = set()
        self.keys: dict[str, str] = {}
        self.scales: dict[str, str] = {}
        self.taps = {value: name for name, value in tapped(model, settings.taps).items()}
        self.formats = self._formats()
        self.quantized: dict[tuple[ir.Value, WeightFormat], fx.Node] = {}
        self.device: fx.Node | None = None

    def run(self) -> Traced:
        inputs = list(self.model.graph.inputs)
        for position, value in enumerate(inputs):
            self.env[value] = self.graph.placeholder(f"input_{position}")
        self.device = self.graph.call_function(getattr, (self.env[inputs[0]], "device"))
        for node in self.model.graph:
            self._node(node)
        tapped_values = {name: value for value, name in self.taps.items()}
        results = [self._tensor(value) for value in self.model.graph.outputs]
        results += [self.env[tapped_values[name]] for name in self.settings.taps]
        self.graph.output(tuple(results))
        whole = fx.GraphModule(self.root, self.graph)
        whole.graph.eliminate_dead_code()
        traced = fx.GraphModule(whole, whole.graph)  # without the parameters that only dead nodes read
        used = {name for name, _ in traced.named_parameters()} | {name for name, _ in traced.named_buffers()}
        keys = {name: key for name, key in self.keys.items() if key in used}
        labels: dict[str, set[str]] = {}
        for name in keys:
            value = self.model.graph.initializers[name]
            if ROLE_KEY in value.metadata_props:
                labels.setdefault(key_of(value), set()).add(name)
        return Traced(traced, keys, labels, {name: key for name, key in self.scales.items() if name in keys})

    # Nodes

    def _node(self, node: ir.Node) -> None:
        result = self._fused(node)
        if result is None:
            result = self._sizes(node)
        if result is None:
            result = self._call(node)
        dropout = self.settings.dropout.get(role(node) or "", 0.0)
        if dropout and drops(node):
            result = self._module("dropout", torch.nn.Dropout(dropout), (result,))
        if len(node.outputs) == 1:
            self.env[node.outputs[0]] = result
        else:
            for position, value in enumerate(node.outputs):
                self.env[value] = self.graph.call_function(operator.getitem, (result, position))

    def _call(self, node: ir.Node) -> fx.Node:
        known = OPERATORS.get((node.domain, node.op_type))
        if known is None:
            label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise BqcError(
                f"node {node.name or node.outputs[0].name} is a {label}, which torch cannot run here; "
                f"supported: {supported()}"
            )
        arguments = [self._argument(node, known, i, value) for i, value in enumerate(node.inputs)]
        named = {name: _plain(value) for name, value in attributes_of(node).items()}
        if known.makes:
            named["device"] = self.device
        if known.learns:
            named["learn"] = self.settings.learn
            scale = node.inputs[1]
            if scale is not None and scale.is_initializer():
                self.scales[scale.name or ""] = key_of(node)
        return self.graph.call_function(known.function, tuple(arguments), named)

    def _argument(self, node: ir.Node, known: Operator, position: int, value: ir.Value | None) -> Any:
        if value is None:
            return None
        if position not in known.static:
            return self._tensor(value)
        number = self._number(value)
        if number is None:
            raise BqcError(
                f"node {node.name or node.outputs[0].name} ({node.op_type}): its input {value.name} is computed from "
                "data; it must be a constant or come from sizes"
            )
        return number

    def _sizes(self, node: ir.Node) -> fx.Node | None:
        """The node as arithmetic on Python numbers, if it is that."""
        function = SIZES.get(node.op_type) if not node.domain else None
        if function is None:
            return None
        inputs: list[Any] = [value for value in node.inputs if value is not None]
        if node.op_type == "Shape":
            # The size of a vector of sizes is how long a vector to fill, not a tensor.
            known = inputs[0] in self.sizes
            inputs = [self.env[inputs[0]] if known else self._tensor(inputs[0])]
            if known:
                self.lengths.add(node.outputs[0])
        elif node.op_type == "ConstantOfShape" and inputs[0] not in self.lengths:
            return None
        elif any(value in self.sizes for value in inputs):
            inputs = [self._number(value) for value in inputs]
            if any(value is None for value in inputs):
                return None
        else:
            return None
        self.sizes.add(node.outputs[0])
        named = {name: _plain(value) for name, value in attributes_of(node).items()}
        return self.graph.call_function(function, tuple(inputs), named)

    # Values

    def _number(self, value: ir.Value) -> Any:
        """A value as a Python number or tuple, or as the fx node that computes one; None if it is a tensor."""
        if value in self.sizes:
            return self.env[value]
        data = constant(value) if value.is_initializer() else None
        if data is None or data.ndim > 1:
            return None
        return data.item() if data.ndim == 0 else tuple(data.tolist())

    def _tensor(self, value: ir.Value | None) -> fx.Node:
        assert value is not None, "canonical graphs leave no needed input out"
        if value in self.sizes:
            return self.graph.call_function(torch.tensor, (self.env[value],), {"device": self.device})
        if value not in self.env:
            self.env[value] = self._initializer(value)
        node: fx.Node = self.env[value]
        return node

    def _initializer(self, value: ir.Value) -> fx.Node:
        data = constant(value)
        assert data is not None, f"{value.name} is made by nothing"
        assert value.name is not None, "initializers have names"
        tensor = torch.from_numpy(np.array(data))
        key = _place(self.root, value.name, tensor, tensor.is_floating_point() and tensor.dim() > 0)
        self.keys[value.name] = key
        return self.graph.get_attr(key)

    def _module(self, name: str, made: torch.nn.Module, arguments: tuple[Any, ...]) -> fx.Node:
        count = sum(1 for known, _ in self.root.named_children() if known.startswith(f"{name}_"))
        self.root.add_module(f"{name}_{count}", made)
        return self.graph.call_module(f"{name}_{count}", arguments)

    # Weights

    def _formats(self) -> dict[tuple[ir.Node, ir.Value], WeightFormat]:
        """Formats of the weights to fake-quantise, by their use. Raises BqcError for a key without a weight."""
        wanted = self.settings.weights
        found = {}
        keys = set()
        for node, weight, _ in weight_uses(self.model):
            keys.add(key_of(node))
            if key_of(node) in wanted:
                found[node, weight] = wanted[key_of(node)]
        unknown = sorted(set(wanted) - keys)
        if unknown:
            raise BqcError(f"no float weight is called {unknown[0]}; there are {', '.join(sorted(keys))}")
        return found

    def _weight(self, node: ir.Node, value: ir.Value) -> fx.Node:
        """The matrix of a linear, fake-quantised once even where layers share it."""
        fmt = self.formats.get((node, value))
        if fmt is None:
            return self._tensor(value)
        if (value, fmt) not in self.quantized:
            planes = [self._tensor(latent) for latent in latents(value)]
            self.quantized[value, fmt] = self._fake_quantize(planes, fmt, 0)
        return self.quantized[value, fmt]

    def _fake_quantize(
        self, latent: list[fx.Node], fmt: WeightFormat, axis: int, whole: list[fx.Node] | None = None
    ) -> fx.Node:
        """The weight, or with ``axis`` -1 rows of it, then of ``whole``; of several that are added, each is a plane of
        its own."""
        if isinstance(fmt, BlockShift):
            block = fmt.block if isinstance(fmt.block, int) else 0
            return self.graph.call_function(fake_quantize_weight, (*latent, fmt.bits, block, fmt.group, axis))
        if isinstance(fmt, Half):
            return self.graph.call_function(fake_half, tuple(latent))
        if isinstance(fmt, Index8):
            return self.graph.call_function(fake_index_weight, (*latent, *(whole or latent)))
        if isinstance(fmt, Xnor):
            return self.graph.call_function(fake_xnor_weight, (*latent, fmt.scale, axis))
        if isinstance(fmt, Sparse) and axis == 0:
            return self.graph.call_function(
                fake_sparse_weight, (*latent, fmt.kept, fmt.of, fmt.bits, fmt.group)
            )
        if not isinstance(fmt, Binary | Ternary):
            what = "torch is not taught its rounding" if axis == 0 else "it is no format of a lookup table"
            raise BqcError(f"{fmt} cannot be trained: {what}")
        per_row, half = fmt.span == "row", fmt.scales == "fp16"
        if isinstance(fmt, Ternary):
            return self.graph.call_function(fake_ternary_weight, (*latent, per_row, axis, half))
        each = [
            self.graph.call_function(
                fake_binary_weight, (one, fmt.planes // len(latent), per_row, axis, half)
            )
            for one in latent
        ]
        return each[0] if len(each) == 1 else self.graph.call_function(torch.add, tuple(each))

    # What torch has as one function

    def _fused(self, node: ir.Node) -> fx.Node | None:
        if node.domain:
            return None
        if node.op_type == "Gather":
            return self._lookup(node)
        if node.op_type == "MatMul":
            return self._product(node)
        if node.op_type == "Add":
            return self._linear(node)
        return None

    def _lookup(self, node: ir.Node) -> fx.Node | None:
        table, ids = node.inputs
        assert ids is not None, "a Gather has indices"
        if table not in self.sizes and ids not in self.sizes and isinstance(index := self._number(ids), int):
            return self.graph.call_function(
                torch.select, (self._tensor(table), attributes_of(node).get("axis", 0), index)
            )
        tables = latents(table)
        if not tables or len(tables[0].shape or ()) != 2:
            return None
        if ids in self.sizes or attributes_of(node).get("axis", 0) != 0:
            return None
        fmt = self.formats.get((node, table)) if table is not None else None
        if isinstance(fmt, Binary | Ternary) and fmt.span == "tensor":
            raise BqcError(f"{key_of(node)} cannot be trained in {fmt}: give the table a scale a row")
        # Scales are those of rows, so that only the rows in use need be quantised.
        rows = [
            self.graph.call_function(
                _embedding, (self._tensor(ids), self._tensor(one), self.settings.sparse_tables)
            )
            for one in tables
        ]
        if fmt is not None:
            return self._fake_quantize(rows, fmt, -1, [self._tensor(one) for one in tables])
        return rows[0] if len(rows) == 1 else self.graph.call_function(torch.add, tuple(rows))

    def _product(self, node: ir.Node) -> fx.Node | None:
        x, weight = node.inputs
        if weight is not None and (weight.is_initializer() or (node, weight) in self.formats):
            return self.graph.call_function(torch.matmul, (self._tensor(x), self._weight(node, weight)))
        return self._attention(node)

    def _linear(self, node: ir.Node) -> fx.Node | None:
        product, bias = produced_by(node.inputs[0], "MatMul"), node.inputs[1]
        if product is None or bias is None or not bias.is_initializer() or len(bias.shape or ()) != 1:
            return None
        x, weight = product.inputs
        if weight is None or len(weight.shape or ()) != 2:
            return None
        if not weight.is_initializer() and (product, weight) not in self.formats:
            return None
        return self.graph.call_function(
            _linear, (self._tensor(x), self._weight(product, weight), self._tensor(bias))
        )

    def _attention(self, node: ir.Node) -> fx.Node | None:
        softmax = produced_by(node.inputs[0], "Softmax")
        if softmax is None or not self.settings.fused_attention or not self._unseen(softmax):
            return None
        biases: list[ir.Value] = []
        scaled = softmax.inputs[0]
        while (add := produced_by(scaled, "Add")) is not None and self._unseen(add):
            biases.append(add.inputs[1])  # type: ignore[arg-type]
            scaled = add.inputs[0]
        multiply = produced_by(scaled, "Mul")
        if multiply is None or not self._unseen(multiply):
            return None
        scores = produced_by(multiply.inputs[0], "MatMul")
        factor = constant(multiply.inputs[1])
        if scores is None or factor is None or factor.ndim or not self._unseen(scores):
            return None
        values = (*scores.inputs, node.inputs[1], *reversed(biases))
        attention = _Attention(float(factor), self.settings.dropout.get("attention.softmax", 0.0))
        return self._module("attention", attention, tuple(self._tensor(value) for value in values))

    def _unseen(self, node: ir.Node) -> bool:
        """Whether nothing but the next node reads the node's output."""
        return single_use(node.outputs[0]) is not None and node.outputs[0] not in self.taps


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(x, weight.t(), bias)


def _embedding(ids: Tensor, table: Tensor, sparse: bool) -> Tensor:
    ids = torch.where(ids < 0, ids + table.shape[0], ids)
    return functional.embedding(ids, table, sparse=sparse)


def _plain(value: Any) -> Any:
    """An attribute's value as fx writes it."""
    if isinstance(value, ir.TensorProtocol):
        return value.numpy().item()
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _place(root: torch.nn.Module, name: str, tensor: Tensor, trainable: bool) -> str:
    """Register a tensor below ``root``, under its dotted name where torch allows it; return its key."""
    if not _free(root, name.split(".")):
        name = f"initializer_{len(list(root.buffers())) + len(list(root.parameters()))}"
    *path, last = name.split(".")
    parent = root
    for part in path:
        if not hasattr(parent, part):
            parent.add_module(part, torch.nn.Module())
        parent = getattr(parent, part)
    if trainable:
        parent.register_parameter(last, torch.nn.Parameter(tensor))
    else:
        parent.register_buffer(last, tensor)
    return name


def _free(root: torch.nn.Module, parts: list[str]) -> bool:
    """Whether a dotted name meets nothing but modules on its way, and nothing at its end."""
    parent: Any = root
    for part in parts[:-1]:
        if not part or (hasattr(parent, part) and part not in parent._modules):
            return False
        if part not in parent._modules:
            return not any(hasattr(torch.nn.Module(), other) or not other for other in parts)
        parent = parent._modules[part]
    return bool(parts[-1]) and not hasattr(parent, parts[-1])

"""The products of a compiled model's linears, each timed against the same product in dense 8 bits."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from bqc.bench.latency import Latency, summarize
from bqc.bench.schedule import Plan, Run, alternate
from bqc.errors import BqcError
from bqc.formats import BlockShift
from bqc.formats.stored import WeightFormat, weight_format
from bqc.inspect import stated_elements
from bqc.ops.registry import DOMAIN, OPERATORS, OPSET, VERSION
from bqc.ops.xnor_reference import binarize
from bqc.passes._graph import FORMAT_KEY, PART_KEY, attributes_of, constant, key_of
from bqc.passes._padding import once_a_sequence
from bqc.runtime.session import session

__all__ = ["DENSE", "Product", "find_products", "schedule", "time_product"]

Array = NDArray[Any]

_Linears = tuple[str, dict[str, Any], list[dict[str, Array]]]
"""An operator, its attributes, and the constants of each node by the names of its inputs."""

DENSE = BlockShift(8, 64)
"""What linears whose inputs stay float are compared with."""
_FAMILY = "Block"
_BYTES, _MACS, _NODES = 32 << 20, 1e9, 64
"""Of a run at most: more bytes of dense weights than the caches of a core hold, but no long run of many rows."""
_ENGINES = ("dense", "own")


@dataclass(frozen=True)
class Product:
    """Linears whose products take the same time.

    Attributes:
        format: of their weights.
        inputs: what they read, in its blocks; None where that is no quantisation point of the plan.
        columns, rows: K and N, the inputs and outputs of the weights.
        once: whether they see one row a sequence, as where only first tokens are read.
        nodes: the operators, one for each weight.
        keys: ``layer:role`` of the linears.
    """

    format: WeightFormat
    inputs: BlockShift | None
    columns: int
    rows: int
    once: bool
    nodes: tuple[ir.Node, ...]
    keys: tuple[str, ...]

    @property
    def dense(self) -> BlockShift:
        """8 bits in the blocks of what the linears read, as products of integers need them."""
        return replace(self.inputs or DENSE, bits=8)

    @property
    def is_dense(self) -> bool:
        """Whether it is what others are compared with: products of integers have the blocks of their inputs."""
        return self.format.family == _FAMILY and self.format.bits == 8


def find_products(model: ir.Model, inputs: Mapping[str, BlockShift]) -> list[Product]:
    """The linears of a compiled model, in graph order, those that run alike together.

    Args:
        model: its operators and packed weights.
        inputs: ``layer:role`` of a linear -> format of what it reads, where the plan quantises that.
    """
    found: dict[tuple[Any, ...], Product] = {}
    for node in model.graph:
        weight = _weight(node)
        if weight is None:
            continue
        rows = len(_array(_inputs(node)["bias"]))
        one = Product(
            format=weight_format(weight.metadata_props[FORMAT_KEY]),
            inputs=inputs.get(key_of(node)),
            columns=stated_elements(weight) // rows,
            rows=rows,
            once=once_a_sequence(node),
            nodes=(),
            keys=(),
        )
        alike = found.setdefault(_like(one), one)
        shared = any(_weight(other) is weight for other in alike.nodes)
        found[_like(one)] = replace(
            alike, nodes=alike.nodes + (() if shared else (node,)), keys=(*alike.keys, key_of(node))
        )
    return list(found.values())


def _like(product: Product) -> tuple[Any, ...]:
    return product.format, product.inputs, product.columns, product.rows, product.once


def schedule(threads: int) -> Plan:
    """Short blocks, as there are many products; without other threads there is nothing to wait for between them."""
    return Plan(rounds=5, seconds=0.1, warm_ups=1, pause=0.0 if threads == 1 else 0.1)


def time_product(
    product: Product,
    rows: Sequence[int],
    bytes_between: int,
    threads: int,
    plan: Plan,
    progress: Callable[[], None] = lambda: None,
) -> list[tuple[Latency, Latency]]:
    """The dense product and the product's own, in alternating blocks, for each number of input rows.

    A run multiplies by the weights of all the linears, and by copies of them, in turn, because a model reads none
    twice: a weight that stays in the first caches would hide what a narrow format saves. Times are of one product, and
    with one thread processor time, as runs are longer than the time for which a busy machine leaves a thread alone.
    What is fused to it in the model (the norm, the quantisation of its result) is left out.

    Args:
        product: which.
        rows: of the input.
        bytes_between: of the weights, in dense 8 bits, that a model reads until it reads the same one again.
        threads: of ONNX Runtime.
        plan: how long and how often.
        progress: called after every block.

    Raises:
        BqcError: there is no kernel for one of them, or it cannot run.
    """
    own, names = _own(product)
    constants = {"dense": _dense(product), "own": own}
    known = {"dense": ("codes", "exponents"), "own": names}
    clock = time.thread_time if threads == 1 else time.perf_counter
    found = []
    for count in rows:
        size = product.columns * product.rows
        turns = max(1, int(min(bytes_between // size, _BYTES // size, _MACS // (size * count), _NODES)))
        given = _activations(product, count)
        with tempfile.TemporaryDirectory(prefix="bqc-products-") as folder:
            runs = {}
            for engine in _ENGINES:
                op_type, attributes, weights = constants[engine]
                feeds = {name: given[name] for name in known[engine]}
                nodes = list(itertools.islice(itertools.cycle(weights), turns))
                path = Path(folder) / f"{engine}.onnx"
                onnx.save(_model(op_type, attributes, nodes, feeds), str(path))
                runs[engine] = _runner(product, session(path, strict=True, threads=threads), feeds)
        blocks = alternate(runs, plan, clock=clock, progress=progress)
        dense, own_time = summarize(blocks, _ENGINES[0], 1, tokens=float(count))
        found.append((_each(dense, turns), _each(own_time, turns)))
    return found


def _runner(product: Product, engine: Any, feeds: Mapping[str, Array]) -> Run:
    def run(_: int) -> None:
        try:
            engine.run(None, feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
            raise BqcError(f"{product.keys[0]}: its product cannot be measured: {error}") from error

    return run


def _each(latency: Latency, count: int) -> Latency:
    """Of one product, where a run is so many of them."""
    times = {
        name: getattr(latency, name) / count
        for name in ("steady_ms", "p50_ms", "p90_ms", "p99_ms", "cold_ms")
    }
    return replace(latency, **times, tokens_per_second=latency.tokens_per_second * count)


def _own(product: Product) -> tuple[_Linears, tuple[str, ...]]:
    """The linears as they are compiled, without what is fused to them, and the names of what they read."""
    operator = OPERATORS[f"{product.format.family}Linear"]
    first, known = _inputs(product.nodes[0]), attributes_of(product.nodes[0])
    names = tuple(name for name in operator.inputs if not first[name].is_initializer())
    weights = [
        {name: _array(_inputs(node)[name]) for name in operator.inputs if name not in names}
        for node in product.nodes
    ]
    return (operator.name, {name: known[name] for name in operator.attributes}, weights), names


def _dense(product: Product) -> _Linears:
    """The same linears with their weights in 8 bits."""
    operator = OPERATORS[f"{_FAMILY}Linear"]
    *_, weight, exponents, bias = operator.inputs
    weights = []
    known: dict[str, Any] = {}
    for node in product.nodes:
        values = _inputs(node)
        stored = {
            v.metadata_props[PART_KEY]: _array(v) for v in values.values() if PART_KEY in v.metadata_props
        }
        matrix = product.format.restore(stored, (product.rows, product.columns))
        packed, known = product.dense.tiles(product.dense.quantized(matrix))
        parts = dict(zip((weight, exponents), packed.values(), strict=True))
        weights.append({**parts, bias: _array(values[bias])})
    return operator.name, {name: known[name] for name in operator.attributes}, weights


def _model(
    op_type: str,
    attributes: Mapping[str, Any],
    weights: Sequence[Mapping[str, Array]],
    feeds: Mapping[str, Array],
) -> onnx.ModelProto:
    """One operator a weight, all of the same inputs; a Shape reads each result, so that none is copied out."""
    helper = onnx.helper
    # A fixed number of rows would let ONNX Runtime fold each Shape, and then drop the product.
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), ["rows", *array.shape[1:]]
        )
        for name, array in feeds.items()
    ]
    nodes, initializers, outputs = [], [], []
    for i, own in enumerate(weights):
        initializers += [numpy_helper.from_array(array, f"{name}_{i}") for name, array in own.items()]
        read = [name if name in feeds else f"{name}_{i}" for name in OPERATORS[op_type].inputs]
        nodes += [
            helper.make_node(op_type, read, [f"y_{i}"], name=f"product_{i}", domain=DOMAIN, **attributes),
            helper.make_node("Shape", [f"y_{i}"], [f"shape_{i}"], name=f"shape_{i}"),
        ]
        outputs.append(helper.make_tensor_value_info(f"shape_{i}", onnx.TensorProto.INT64, [2]))
    graph = helper.make_graph(nodes, "products", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _activations(product: Product, rows: int) -> dict[str, Array]:
    """Random inputs in every form that linears read, by the names that operators give them."""
    x = np.random.default_rng(0).standard_normal((rows, product.columns), dtype=np.float32)
    codes, exponents = (product.inputs or DENSE).quantize(x)
    return {"x": x, "bits": binarize(x), "codes": codes, "exponents": exponents}


def _weight(node: ir.Node) -> ir.Value | None:
    """The first part of the weight that a linear multiplies by, if the node is one."""
    if node.domain != DOMAIN:
        return None
    for value in node.inputs:
        if value is not None and stated_elements(value):
            family = weight_format(value.metadata_props[FORMAT_KEY]).family
            return value if node.op_type.startswith(f"{family}Linear") else None
    return None


def _inputs(node: ir.Node) -> dict[str, ir.Value]:
    """Inputs by the names that the operator gives them."""
    names = OPERATORS[node.op_type].inputs
    return {name: value for name, value in zip(names, node.inputs, strict=True) if value is not None}


def _array(value: ir.Value) -> Array:
    array = constant(value)
    assert array is not None, "weights and biases are initializers"
    return array

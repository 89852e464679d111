"""Deciding what a subgraph computes by running it.

Exporters write masks, position ids, head splitting and attention scaling in dozens of ways, and next year in
others. What they compute is simple. So instead of matching how it is written, a probe cuts the subgraph out
between known values, runs it on a few small inputs and lets the caller compare with the canonical form.

The shapes of large intermediate values are known without running anything, so `Shape` of a hidden state is
fed, not computed: a probe never touches weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from bqc.ir.anatomy import TABLE_ROLES, role
from bqc.ir.match import constant, is_weight, rank, size_of

__all__ = ["MASK_PATTERNS", "Probe", "ProbeError", "Sizes", "mask_patterns", "same_shape", "shape_of"]

Array = npt.NDArray[Any]

WEIGHT_LIMIT = 1024
BUFFER_LIMIT = 1 << 19
NODE_LIMIT = 600

MASK_PATTERNS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((1, 1, 1, 1), (1, 1, 1, 1)),
    ((1, 1, 1, 0), (1, 0, 0, 0)),
    ((0, 1, 1, 1), (0, 0, 1, 1)),
    ((1, 0, 1, 1, 0),),
)
"""0/1 masks `[B, S]` of several sizes: full, right padded, left padded, with holes."""


def mask_patterns(graph: ir.Graph) -> list[Array]:
    """`MASK_PATTERNS` as int64 in sizes that the graph takes; every row keeps a token."""
    made = []
    for rows in MASK_PATTERNS:
        pattern = np.array(rows, np.int64)
        sizes = Sizes(*pattern.shape).within(graph)
        times = -(-sizes.batch // len(pattern)), -(-sizes.sequence // len(pattern[0]))
        pattern = np.tile(pattern, times)[: sizes.batch, : sizes.sequence]
        pattern[~pattern.any(axis=1), 0] = 1
        made.append(pattern)
    return made


class ProbeError(Exception):
    """The subgraph cannot be cut out or run; the text says why."""


@dataclass(frozen=True)
class Sizes:
    """The batch and sequence length of one probe run."""

    batch: int
    sequence: int

    def within(self, graph: ir.Graph) -> Sizes:
        """These sizes, or those that the graph's inputs fix: exported for one shape, it runs with no other."""
        for value in graph.inputs:
            if value.shape is not None and len(value.shape) == 2:
                batch, sequence = value.shape
                return Sizes(
                    batch if isinstance(batch, int) else self.batch,
                    sequence if isinstance(sequence, int) else self.sequence,
                )
        return self


class Probe:
    """The computation of `outputs` from `boundary` values and graph inputs, ready to run.

    Constants may be of any size where they are outputs themselves.

    Raises:
        ProbeError: it reaches weights or subgraphs, so it is not a small index or layout computation.
    """

    def __init__(self, outputs: Sequence[ir.Value], boundary: Collection[ir.Value] = ()) -> None:
        self.outputs = tuple(outputs)
        self.boundary = tuple(boundary)
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}
        self.inputs: dict[str, ir.Value] = {}
        self.shapes: dict[str, ir.Node] = {}
        self._cut()
        self._session = self._compile()

    def run(self, feeds: Mapping[ir.Value, Array], sizes: Sizes) -> list[Array]:
        """Values of `outputs`; graph inputs without a feed are zeros `[B, S]`."""
        values: dict[str, Array] = {}
        for name, value in self.inputs.items():
            if value in feeds:
                values[name] = feeds[value]
            elif value in self.boundary:
                raise KeyError(f"boundary value {name!r} needs a feed")
            else:
                shape = shape_of(value, sizes) or (sizes.batch, sizes.sequence)
                values[name] = np.zeros(shape, value.dtype.numpy() if value.dtype else np.int64)
        for name, node in self.shapes.items():
            source = node.inputs[0]
            known = shape_of(source, sizes)
            if source is None or known is None:
                raise ProbeError(f"the shape of {source.name if source else 'nothing'} is not known")
            start = node.attributes.get_int("start", 0)
            end = node.attributes.get_int("end", len(known))
            values[name] = np.array(known[start:end], np.int64)
        try:
            return [np.asarray(a) for a in self._session.run(None, values)]
        except Exception as error:
            raise ProbeError(
                f"it does not run on inputs [batch, sequence] ({_reason(error)}): are ids or masks padded, cut or "
                "turned inside the graph?"
            ) from error

    def depends_on(self, value: ir.Value) -> bool:
        """Is `value` (a graph input or a boundary value) read at all?"""
        return any(v is value for v in self.inputs.values())

    def _cut(self) -> None:
        done: set[ir.Value] = set()
        stack: list[tuple[ir.Value, bool]] = [(v, False) for v in reversed(self.outputs)]
        placed: set[ir.Node] = set()
        while stack:
            value, ready = stack.pop()
            node = value.producer()
            if ready:
                assert node is not None, "only produced values are revisited"
                if node not in placed:
                    placed.add(node)
                    self.nodes.append(node)
                continue
            if value in done:
                continue
            done.add(value)
            name = value.name or ""
            if value in self.boundary or value.is_graph_input():
                self.inputs[name] = value
            elif value.const_value is not None and value.is_initializer():
                floats = value.const_value.dtype.is_floating_point()
                limit = WEIGHT_LIMIT if floats else BUFFER_LIMIT
                if value.const_value.size > limit and value not in self.outputs:
                    raise ProbeError(f"it depends on the weight {name!r}")
                self.constants[name] = value
            elif node is None:
                raise ProbeError(f"{name!r} comes from an outer graph")
            elif node.op_type == "Shape" and node.inputs[0] is not None and self._shape_known(node.inputs[0]):
                self.shapes[name] = node
            else:
                if len(placed) + len(stack) > NODE_LIMIT:
                    raise ProbeError(f"it consists of more than {NODE_LIMIT} nodes")
                stack.append((value, True))
                stack.extend((v, False) for v in node.inputs if v is not None)

    def _shape_known(self, value: ir.Value) -> bool:
        return not value.is_graph_input() and shape_of(value, Sizes(2, 3)) is not None

    def _compile(self) -> Any:
        import onnxruntime as ort

        def info(name: str, kind: int) -> onnx.ValueInfoProto:
            return onnx.helper.make_tensor_value_info(name, kind, None)

        proto = onnx.helper.make_graph(
            [ir.serde.serialize_node(node) for node in self.nodes],
            "probe",
            [info(name, int(v.dtype or ir.DataType.FLOAT)) for name, v in self.inputs.items()]
            + [info(name, onnx.TensorProto.INT64) for name in self.shapes],
            [onnx.helper.make_empty_tensor_value_info(v.name or "") for v in self.outputs],
            [_initializer(name, v) for name, v in self.constants.items()],
        )
        for node in proto.node:
            node.ClearField("metadata_props")
            # Names that come twice are no reason: what they are of is looked at, and finished models have others.
            node.ClearField("name")
        opsets = _opsets(self.outputs[0])
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        model = onnx.helper.make_model(proto, opset_imports=imports, ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ProbeError(f"the subgraph does not load: {_first_line(error)}") from error


def shape_of(value: ir.Value | None, sizes: Sizes) -> tuple[int, ...] | None:
    """The concrete shape for one batch and sequence size, from the few operators that make hidden states."""
    return _shape(value, sizes, {})


def same_shape(value: ir.Value, like: ir.Value) -> None:
    """Note that `value` has the shape of `like`, where the operators between do not tell."""
    value.meta[_LIKE] = like


Shapes = dict[ir.Value, tuple[int, ...] | None]


def _shape(value: ir.Value | None, sizes: Sizes, seen: Shapes) -> tuple[int, ...] | None:
    if value is None:
        return None
    if value in seen:
        return seen[value]
    # Residual connections make every layer reachable on two paths, so shapes are remembered: in `seen` for
    # this question, and on the value once known, because no rewrite changes the shape of a value.
    known = value.meta.setdefault(_SHAPES, {})
    if sizes not in known:
        found = _derived(value, sizes, seen)
        seen[value] = found
        if found is None:
            return None
        known[sizes] = found
    shape: tuple[int, ...] = known[sizes]
    return shape


def _derived(value: ir.Value, sizes: Sizes, seen: Shapes) -> tuple[int, ...] | None:
    if value.const_value is not None:
        return tuple(int(d) for d in value.const_value.shape.numpy())
    if value.is_graph_input():
        rank = None if value.shape is None else len(value.shape)
        return (sizes.batch, sizes.sequence) if rank == 2 else None
    like = value.meta.get(_LIKE)
    if isinstance(like, ir.Value):
        return _shape(like, sizes, seen)
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Gather" and role(node) in TABLE_ROLES:
        return (sizes.batch, sizes.sequence, size_of(node.inputs[0], 1))
    first = _shape(node.inputs[0], sizes, seen) if node.inputs else None
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        return _sum_shape(first, _shape(node.inputs[1], sizes, seen), sizes)
    if first is None or node.op_type in _SAME_SHAPE:
        return first
    if node.op_type in ("Pow", "MatMul", "Gather"):
        second = _shape(node.inputs[1], sizes, seen) or _looked_up(node, sizes)
        return None if second is None else _binary_shape(node, first, second)
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", tuple(reversed(range(len(first))))) or ()
        return tuple(first[i] for i in perm)
    if node.op_type == "Unsqueeze":
        axes = constant(node.inputs[1])
        return None if axes is None else np.expand_dims(np.empty(first), tuple(axes.tolist())).shape
    if node.op_type == "Reshape":
        target = constant(node.inputs[1])
        return None if target is None else _reshaped(first, [int(n) for n in target])
    return None


_SHAPES = "bqc.shapes"
_LIKE = "bqc.same_shape"
_SAME_SHAPE = frozenset(
    (
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "Softmax"),
        *("Gelu", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Mish", "Softplus", "Softsign", "Clip"),
        *("Tanh", "Erf", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "QuickGelu"),
        *("Cast", "Identity", "Dropout", "Sqrt", "Neg", "Abs", "Exp", "Log", "Reciprocal"),
    )
)


def _looked_up(node: ir.Node, sizes: Sizes) -> tuple[int, ...] | None:
    """The shape of what a table is looked up by: a matrix of ids, however it was computed, is `[B, S]`."""
    table, index = node.inputs[:2]
    known = node.op_type == "Gather" and is_weight(table, 2) and index is not None and rank(index) == 2
    return (sizes.batch, sizes.sequence) if known else None


def _sum_shape(a: tuple[int, ...] | None, b: tuple[int, ...] | None, sizes: Sizes) -> tuple[int, ...] | None:
    """Of a sum or product; what a hidden state `[B, S, H]` meets makes it no larger, however that was computed.

    A mean `[B, S, 1]` is none.
    """
    if a is not None and b is not None:
        return _broadcast(a, b)
    known = a or b
    whole = (
        known is not None and len(known) == 3 and known[:2] == (sizes.batch, sizes.sequence) and known[2] > 1
    )
    return known if whole else None


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return tuple(np.broadcast_shapes(a, b))
    except ValueError:
        return None


def _binary_shape(node: ir.Node, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    if node.op_type == "Gather":
        axis = node.attributes.get_int("axis", 0) % len(a)
        return (*a[:axis], *b, *a[axis + 1 :])
    if node.op_type == "MatMul":
        if min(len(a), len(b)) < 2:
            return None
        return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    return _broadcast(a, b)


def _reshaped(shape: tuple[int, ...], target: list[int]) -> tuple[int, ...] | None:
    sizes = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(target)]
    known = int(np.prod([n for n in sizes if n >= 0], dtype=np.int64))
    total = int(np.prod(shape, dtype=np.int64))
    return tuple(total // max(known, 1) if n < 0 else n for n in sizes)


def _initializer(name: str, value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None, "constants of a probe are initializers"
    return onnx.numpy_helper.from_array(np.asarray(value.const_value.numpy()), name)


def _opsets(value: ir.Value) -> dict[str, int]:
    node = value.producer()
    graph = value.graph if node is None else node.graph
    return dict(graph.opset_imports) if graph is not None else {"": 21}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _reason(error: Exception) -> str:
    """What ONNX Runtime says of a run, without the places in its own sources."""
    text = " ".join(str(error).split())
    node = re.search(r"while running (\w+) node", text)
    told = re.split(r"Status Message: | was false\. ", text)[-1]
    return f"{node[1]}: {told}"[:200] if node else told[:200]

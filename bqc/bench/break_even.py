"""Where a format pays: the products of a compiled model against dense 8 bits, and what goes back to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx_ir as ir

from bqc.bench import products
from bqc.bench.report import Machine
from bqc.errors import BqcError
from bqc.formats import BlockShift, Static
from bqc.ir.inputs import INPUTS_KEY, TOKEN_IDS, InputSpecs
from bqc.passes._graph import dims, key_of
from bqc.passes._padding import token_index
from bqc.passes._weights import is_linear, tied_tables, weight_uses
from bqc.pipeline.trial import snapshot
from bqc.plan import Plan
from bqc.runtime.native import native

__all__ = [
    "EVEN",
    "BreakEven",
    "Measuring",
    "Speed",
    "back_to_dense",
    "inputs_of",
    "measure",
    "require_shapes",
]

EVEN = 0.02
"""Formats whose times differ by less are even."""

MOST_ROWS = 2**16
"""Tokens of a batch that is timed: at a width of 4096 that many take a gibibyte."""

Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Speed:
    """Products of one format and size against dense 8 bits. Times are milliseconds of one product.

    Attributes:
        format, dense: texts of the formats.
        columns, outputs: K and N, inputs and outputs of the weights.
        linears: ``layer:role`` of those that it is about.
        rows: of the input: tokens of a batch, or its sequences where only first tokens are read.
        milliseconds, dense_milliseconds: medians.
        ratio: times as fast as dense: the median of the rounds.
        ratio_min, ratio_max: the smallest and the largest of those.
        kept_dense: whether the linears went back to 8 bits for it.
        left: why they did not, where they should have.
    """

    format: str
    dense: str
    columns: int
    outputs: int
    linears: tuple[str, ...]
    rows: int
    milliseconds: float
    dense_milliseconds: float
    ratio: float
    ratio_min: float
    ratio_max: float
    kept_dense: bool = False
    left: str = ""

    @property
    def slower(self) -> bool:
        """Whether it is slower in the median, by more than `EVEN`, and in every round."""
        return self.ratio < 1 - EVEN and self.ratio_max < 1

    def __str__(self) -> str:
        outcome = "kept dense" if self.kept_dense else "slower than dense 8 bits"
        outcome += f"; left: {self.left}" if self.left else ""
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"{self.format} at K={self.columns}, N={self.outputs}, {rows}: {self.ratio:.2f}x, {outcome}"


@dataclass(frozen=True)
class BreakEven:
    """What was measured.

    Attributes:
        machine: where.
        isa: level of the kernels.
        speeds: by product, then by rows.
        floats: ``layer:role`` of the linears that run in float, which are not timed.
    """

    machine: Machine
    isa: str
    speeds: tuple[Speed, ...]
    floats: tuple[str, ...] = ()

    @property
    def slower(self) -> list[Speed]:
        """Those that do not pay."""
        return [speed for speed in self.speeds if speed.slower]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": asdict(self.machine),
            "isa": self.isa,
            "speeds": [{**asdict(speed), "slower": speed.slower} for speed in self.speeds],
            "floats": list(self.floats),
        }


class Measuring:
    """What `compile` does for it: called in the order of the methods.

    Raises:
        BqcError: there is no kernel library; bodies run in plain ONNX Runtime, which tells nothing about kernels.
    """

    def __init__(self, shapes: Shapes, threads: int, keep_dense: bool) -> None:
        self.found: BreakEven | None = None
        self._shapes, self._threads, self._keep_dense = shapes, threads, keep_dense
        self._planned: ir.Model | None = None
        self._inputs: dict[str, BlockShift] = {}
        try:
            native()
        except BqcError as error:
            raise BqcError(f"kernels cannot be measured: {error}") from error

    def imported(self, model: ir.Model) -> None:
        """Raise BqcError if the model cannot take one of the shapes."""
        require_shapes(model, self._shapes)

    def planned(self, model: ir.Model) -> None:
        """Remember what linears read and, if some may go back, the float model."""
        self._planned, self._inputs = snapshot(model) if self._keep_dense else None, inputs_of(model)

    def lowered(self, model: ir.Model, progress: Callable[[int, int], None] | None = None) -> ir.Model | None:
        """Measure; the planned model is returned, with another plan, if something is to go back to 8 bits."""
        self.found = measure(model, self._inputs, self._shapes, self._threads, progress)
        if self._planned is None:
            return None
        plan, self.found = back_to_dense(self._planned, self._inputs, self.found)
        if plan == Plan.of(self._planned):
            return None
        plan.attach(self._planned)
        return self._planned


def require_shapes(model: ir.Model, shapes: Shapes) -> None:
    """Raise BqcError if an imported model cannot take one of these batches x tokens."""
    specs = InputSpecs.of_json(model.metadata_props.get(INPUTS_KEY))
    ids = [name for name, one in specs.inputs.items() if one.role == TOKEN_IDS]
    for batch, tokens in shapes:
        if batch * tokens > MOST_ROWS:
            raise BqcError(
                f"{batch}x{tokens}: at most {MOST_ROWS} tokens are measured at once, as in {MOST_ROWS // 128}x128"
            )
        if specs.longest and tokens > specs.longest:
            raise BqcError(
                f"{batch}x{tokens}: the model has positions for {specs.longest} tokens; measure "
                f"{batch}x{specs.longest} or less"
            )
        for value in model.graph.inputs:
            fixed = dims(value) if value.name in ids else []
            if any(
                isinstance(d, int) and d != given for d, given in zip(fixed, (batch, tokens), strict=False)
            ):
                raise BqcError(f"{batch}x{tokens}: the model is made for {fixed[0]}x{fixed[1]}; measure that")


def inputs_of(model: ir.Model) -> dict[str, BlockShift]:
    """``layer:role`` of the linears of a planned float model -> format of what they read, where the plan has one.

    Of a static one it is the format of the same blocks whose scales are found at run time.
    """
    plan = Plan.of(model)
    found = {}
    for node in filter(is_linear, model.graph):
        source = node.inputs[0]
        before = None if source is None else source.producer()
        while before is not None and token_index(before) is not None:
            taken = before.inputs[0]
            before = None if taken is None else taken.producer()
        fmt = None if before is None else plan.activations.get(key_of(before))
        if isinstance(fmt, Static):
            fmt = BlockShift(fmt.bits, fmt.block, fmt.group)
        if fmt is not None and fmt.block != "tensor":
            found[key_of(node)] = fmt
    return found


def measure(
    model: ir.Model,
    inputs: Mapping[str, BlockShift],
    shapes: Shapes,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> BreakEven:
    """Time every format and size of a compiled model's linears that is not dense 8 bits, against that.

    Args:
        model: compiled, in memory.
        inputs: of the same model, from `inputs_of`.
        shapes: batches x tokens.
        threads: of ONNX Runtime.
        progress: called with (blocks done, blocks in all).

    Raises:
        BqcError: there is no kernel for an operator.
    """
    plan = products.schedule(threads)
    machine = Machine.here(threads)
    known = products.find_products(model, inputs)
    read = sum(one.columns * one.rows * len(one.nodes) for one in known)
    wanted = [one for one in known if not one.is_dense]
    rows = [list(dict.fromkeys(b if one.once else b * t for b, t in shapes)) for one in wanted]
    done, total = 0, 2 * plan.rounds * sum(map(len, rows))

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    speeds = []
    for one, counts in zip(wanted, rows, strict=True):
        pairs = products.time_product(one, counts, read, threads, plan, advance)
        for count, (dense, own) in zip(counts, pairs, strict=True):
            speeds.append(
                Speed(
                    format=str(one.format),
                    dense=str(one.dense),
                    columns=one.columns,
                    outputs=one.rows,
                    linears=one.keys,
                    rows=count,
                    milliseconds=own.steady_ms,
                    dense_milliseconds=dense.steady_ms,
                    ratio=own.ratio,
                    ratio_min=own.ratio_min,
                    ratio_max=own.ratio_max,
                )
            )
    floats = tuple(key_of(node) for node in filter(is_linear, model.graph))
    return BreakEven(machine, native().isa(), tuple(speeds), floats)


def back_to_dense(
    model: ir.Model, inputs: Mapping[str, BlockShift], found: BreakEven
) -> tuple[Plan, BreakEven]:
    """The plan with 8 bits for every linear that is slower at all rows measured, and the report that says so.

    A linear goes back if the plan quantises what it reads, together with all that share its weight; a table that is
    its transpose goes with it. The plan itself is returned if none does; the report says why.

    Args:
        model: planned, still float.
        inputs: of the same model, from `inputs_of`.
        found: what was measured.
    """
    plan = Plan.of(model)
    slow = {key for key in inputs if _always_slower(found.speeds, key)}
    chosen: dict[str, BlockShift] = {}
    for uses in _shared(model):
        linears = [key for key, axis in uses if axis == 0]
        if linears and slow.issuperset(linears):
            for key, axis in uses:
                chosen[key] = replace(inputs[key if axis == 0 else linears[0]], bits=8)
    speeds = tuple(
        replace(
            one,
            kept_dense=one.slower and any(key in chosen for key in one.linears),
            left=_why_left(one, inputs, found.speeds, chosen),
        )
        for one in found.speeds
    )
    if not chosen:
        return plan, replace(found, speeds=speeds)
    why = {key: f"8 bits: {plan.weights[key]} was measured to be slower" for key in chosen}
    revised = Plan(
        plan.scheme, {**plan.weights, **chosen}, plan.activations, {**plan.kept, **why}, plan.parameters
    )
    return revised, replace(found, speeds=speeds)


def _why_left(
    speed: Speed, inputs: Mapping[str, BlockShift], speeds: Collection[Speed], chosen: Collection[str]
) -> str:
    """Why none of its linears goes back to 8 bits, though it is slower."""
    if not speed.slower or any(key in chosen for key in speed.linears):
        return ""
    if inputs.keys().isdisjoint(speed.linears):
        return "the plan gives its input no format"
    if not any(_always_slower(speeds, key) for key in speed.linears):
        return "it is not slower at other rows"
    return "its weight is shared with one that stays, or a sum of two"


def _always_slower(speeds: Collection[Speed], key: str) -> bool:
    own = [speed.slower for speed in speeds if key in speed.linears]
    return bool(own) and all(own)


def _shared(model: ir.Model) -> list[list[tuple[str, int]]]:
    """(``layer:role``, reduction axis) of all uses of a weight, for each weight that is one constant."""
    tables = tied_tables(model)
    uses: dict[ir.Value, list[tuple[str, int]]] = {}
    for node, weight, axis in weight_uses(model):
        # Of a sum of two constants only planes of signs can be made.
        if weight.is_initializer():
            uses.setdefault(tables.get(weight, weight), []).append((key_of(node), axis))
    return list(uses.values())

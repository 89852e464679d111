"""Running a model of any dialect on small made-up inputs, and comparing what came out."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.ir.build import dims
from bqc.ops.registry import DOMAIN, OPERATORS
from bqc.passes.attach_functions import AttachFunctions
from bqc.runtime.feeds import Feeds
from bqc.runtime.session import MissingKernelWarning, session
from bqc.runtime.tables import LOOKUPS

__all__ = ["completed", "disagreement", "evaluate", "make_feeds", "snapshot", "tolerance"]

BATCH, SEQUENCE = 2, 8
"""Sizes of what is made up, where the model leaves them open."""

ROUNDING = 1e-4
"""Error of a float graph, relative to the largest element of an output, that is put down to rounding."""
HALVES = 2e-3
"""The same of a graph that rounds activations to fp16: a value between two numbers may take the other one, which is off
by 2**-11 of it."""
BORDERLINE = 0.2
"""The same of a graph that quantises: a value on the border of two codes may take the other one, and what follows from
it was measured at up to 0.05 (12 layers of 768, logits of two classes)."""

_ROUND_INPUTS = ("HalfRound", "HalfLinear", "IndexLinear")
"""What operators that round activations to fp16 begin with."""
_TRANSPARENT = frozenset(("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Expand"))


def snapshot(model: ir.Model) -> ir.Model:
    """A copy that shares the weights; what passes do to the model does not change it."""
    try:
        copy = model.clone()
    except RuntimeError:  # onnx_ir copies sorted graphs only
        copy = ir.from_proto(ir.to_proto(model))
    copy.meta.update(model.meta)
    return copy


def completed(model: ir.Model) -> ir.Model:
    """The model with the definitions of its operators: itself if it has them, else a copy."""
    has = {function.name for function in model.functions.values() if function.domain == DOMAIN}
    if all(
        node.op_type in has or node.op_type not in OPERATORS for node in model.graph if node.domain == DOMAIN
    ):
        return model
    whole = snapshot(model)
    AttachFunctions()(whole)
    return whole


def evaluate(model: ir.Model, feeds: Feeds) -> Feeds:
    """Outputs of a model, half-lowered or not, in ONNX Runtime without its optimisations.

    Raises BqcError if it does not load or run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory(prefix="bqc-trial-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(completed(model), path, external_data="model.onnx.data")
        with warnings.catch_warnings():
            # Kernels give the bits of the bodies that run where there is none, only sooner.
            warnings.simplefilter("ignore", MissingKernelWarning)
            running = session(path, options=options)
        names = [value.name for value in running.get_outputs()]
        try:
            return dict(zip(names, map(np.asarray, running.run(names, feeds)), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
            raise BqcError(
                f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:300]}"
            ) from error


def make_feeds(model: ir.Model, *, batch: int = BATCH, sequence: int = SEQUENCE, seed: int = 0) -> Feeds:
    """Inputs that the model can be run on: ids within their tables, ragged masks, normal numbers."""
    random = np.random.default_rng(seed)
    sequence = min([sequence, *_free_tables(model)])
    sizes: dict[str, int] = {}
    shapes = {value: _sized(_axes(value), sizes, batch, sequence) for value in _inputs(model)}
    feeds = {}
    for value, shape in shapes.items():
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        feeds[value.name or ""] = _made(random, value, shape).astype(dtype)
    return feeds


def tolerance(model: ir.Model) -> float:
    """The error, relative to the largest element of an output, that is put down to rounding in this graph."""
    ours = [node for node in model.graph if node.domain == DOMAIN]
    made = {value.dtype for node in ours for value in node.outputs}
    if made & {ir.DataType.INT8, ir.DataType.UINT8}:
        return BORDERLINE
    return HALVES if any(node.op_type.startswith(_ROUND_INPUTS) for node in ours) else ROUNDING


def disagreement(contract: Contract, feeds: Feeds, before: Feeds, after: Feeds, *, ulp: float) -> str | None:
    """What of the contract the outputs of a model break that had others before, in words; None if nothing.

    ``ulp`` is the `tolerance` of the graph.
    """
    shown = _shown(feeds) if contract.but_hidden else None
    if before.keys() != after.keys():
        return f"outputs are {', '.join(after)}, and were {', '.join(before)}"
    for name, was in before.items():
        now = after[name]
        if was.shape != now.shape:
            return f"output {name} has shape {list(now.shape)}, and had {list(was.shape)}"
        if shown is not None and was.shape[:2] == shown.shape:
            was, now = was[shown], now[shown]
        problem = _broken(contract, was, now, ulp)
        if problem:
            return f"output {name}: {problem}"
    return None


def _broken(
    contract: Contract, was: npt.NDArray[np.generic], now: npt.NDArray[np.generic], ulp: float
) -> str | None:
    if np.array_equal(was, now, equal_nan=was.dtype.kind == "f"):
        return None
    first, second = was.astype(np.float64), now.astype(np.float64)
    if not np.array_equal(np.isfinite(first), np.isfinite(second)):
        return "numbers became infinite or NaN, or the other way round"
    finite = np.isfinite(first)
    error = float(np.abs(first - second, where=finite, out=np.zeros_like(first)).max(initial=0.0))
    scale = float(np.abs(first, where=finite, out=np.zeros_like(first)).max(initial=0.0))
    if contract.numerics == "exact":
        return f"bits changed, by up to {error:.3g}; the pass promises exact"
    if contract.numerics == "ulp":
        relative = error / scale if scale else np.inf
        return (
            f"it moved by {relative:.3g} of its largest element; rounding gives {ulp:g}"
            if relative > ulp
            else None
        )
    assert contract.cosine_min is not None, "a lossy contract has a bound"
    cosine = _cosine(first, second)
    if cosine < contract.cosine_min:
        return f"its cosine with what it was is {cosine:.4f}; the pass promises {contract.cosine_min:g}"
    return None


def _cosine(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / norms if norms else float(not first.any() and not second.any())


def _inputs(model: ir.Model) -> Iterator[ir.Value]:
    return (value for value in model.graph.inputs if value.name not in model.graph.initializers)


def _axes(value: ir.Value) -> list[int | str | None]:
    """Those that import reads where a file states none."""
    known = dims(value)
    return ["batch", "sequence"] if known is None else known


def _sized(
    shape: Sequence[int | str | None], sizes: dict[str, int], batch: int, sequence: int
) -> tuple[int, ...]:
    made = []
    for axis, size in enumerate(shape):
        if not isinstance(size, int):
            free = batch if axis == 0 else sequence
            size = free if size is None else sizes.setdefault(size, free)
        made.append(size)
    return tuple(made)


def _made(random: np.random.Generator, value: ir.Value, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    floating = value.dtype is None or value.dtype.is_floating_point()
    name = (value.name or "").lower()
    if "mask" in name or value.dtype is ir.DataType.BOOL:
        # Ones hide nothing in a mask of zeros and ones, and in one that is added they are the same for every key.
        shown = np.ones(shape) if floating or len(shape) != 2 else _ragged(shape)
        return 1 - shown if "padding" in name else shown
    if floating:
        return random.standard_normal(shape)
    if "position" in name and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape)
    ids = random.integers(0, min(_limits(value), default=2), shape)
    return ids * _ragged(shape) if len(shape) == 2 else ids


def _shown(feeds: Feeds) -> npt.NDArray[np.bool_] | None:
    """The places that a mask among the feeds, of the names that `make_feeds` knows, does not hide."""
    for name, value in feeds.items():
        if "mask" in name.lower() and value.ndim == 2:
            shown: npt.NDArray[np.bool_] = value == 0 if "padding" in name.lower() else value != 0
            return shown
    return None


def _ragged(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Zeros at the end of every row but the first."""
    rows, columns = shape
    lengths = np.maximum(columns - 2 * np.arange(rows) % max(columns, 1), 1)[:, None]
    return (np.arange(columns) < lengths).astype(np.int64)


def _limits(value: ir.Value) -> Iterator[int]:
    """Rows of the tables that the value indexes."""
    queue, seen = [value], {value}
    while queue:
        here = queue.pop()
        for use in here.consumers():
            for at, table in LOOKUPS.get(use.op_type, ()):
                if use.inputs[at] is here:
                    yield from _rows(use, table)
            if use.op_type in _TRANSPARENT and use.inputs[0] is here and use.outputs[0] not in seen:
                seen.add(use.outputs[0])
                queue.append(use.outputs[0])


def _rows(lookup: ir.Node, table: int) -> Iterator[int]:
    looked_up = lookup.inputs[table]
    shape = None if looked_up is None else dims(looked_up)
    axis = lookup.attributes.get_int("axis", 0) or 0
    if shape and len(shape) == 3:  # signs, in planes
        axis = 1
    size = shape[axis] if shape else None
    if shape is not None and (
        len(shape) == 4 or lookup.op_type.endswith("GatherTiles")
    ):  # tiles are padded, so that the node says it
        size = lookup.attributes.get_int("rows")
    if isinstance(size, int):
        yield size


def _free_tables(model: ir.Model) -> Iterator[int]:
    """Rows of tables that no input indexes: a sequence is no longer than its positions."""
    indexed = {limit for value in _inputs(model) for limit in _limits(value)}
    for node in model.graph:
        for _, table in LOOKUPS.get(node.op_type, ()):
            source = node.inputs[table]
            if source is not None and len(dims(source) or ()) == 2:
                yield from (rows for rows in _rows(node, table) if rows > 2 and rows not in indexed)

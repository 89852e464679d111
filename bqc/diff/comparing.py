"""`diff`: two models compared as computations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx_ir as ir

from bqc.diff.alignment import align
from bqc.diff.cost import compare_costs, file_bytes
from bqc.diff.drift import measure_drift
from bqc.diff.feeds import InputChoice
from bqc.diff.nodes import node_changes, signature_changes
from bqc.diff.numbers import WeightGap, compare_weights
from bqc.diff.report import DiffReport, Side, WeightChange, layer_order
from bqc.diff.view import View
from bqc.diff.weights import Weight, match_weights, weights_of
from bqc.errors import BqcError
from bqc.ir import import_model, is_compiled, load
from bqc.ir.load import STDIN
from bqc.ir.structure import same_structure

__all__ = ["CANONICAL_TOLERANCE", "Source", "diff", "open_pair"]

Source = str | os.PathLike[str] | ir.Model

CANONICAL_TOLERANCE = 1e-6
"""Differences of weights that import itself makes when it computes constants."""


def diff(
    a: Source,
    b: Source,
    *,
    canonical: bool = False,
    tolerance: float | None = None,
    run: InputChoice | None = None,
    threads: int | None = None,
) -> DiffReport:
    """Compare two models; names of nodes and values, and the order of nodes, never matter.

    A float model against a compiled one is imported first, as compiling did.

    Args:
        a, b: ``.onnx`` files, or models in memory, which may be changed.
        canonical: import both (compiled ones excepted) before they are compared.
        tolerance: largest difference between weights of one format that is none; default 0, or 1e-6 after import.
        run: also run both models, on this, and measure how far their tensors are apart.
        threads: of ONNX Runtime, for ``run``.

    Raises:
        BqcError: a file cannot be read, ``canonical`` is asked for a model that is no encoder, or, with ``run``, the
            models cannot be run on the same inputs.
    """
    views = open_pair(a, b, canonical=canonical)
    first, second = views
    notes = _read_as_they_are(views)
    if tolerance is None:
        tolerance = CANONICAL_TOLERANCE if canonical else 0.0
    alignment = align(first, second)
    matched = not (alignment.rest(first.nodes) or alignment.rest(second.nodes))
    if not matched and any(view.encoder is None for view in views):
        notes += _annotate(views)
        alignment = align(first, second)
    pairs, only = match_weights(first, second, alignment)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets other threads run
        found = pool.map(lambda pair: compare_weights(pair[0], pair[1], tolerance), pairs)
        gaps = [(*pair, gap) for pair, gap in zip(pairs, found, strict=True)]
    if matched and not all(gap.same for _, _, gap in gaps):
        _annotate(views)
    return DiffReport(
        a=_side(first),
        b=_side(second),
        signature=signature_changes(first, second, alignment),
        nodes=node_changes(first, second, alignment),
        weights=_weight_changes(views, gaps, only),
        weights_same=sum(gap.same for _, _, gap in gaps),
        costs=compare_costs(first, second),
        drift=None if run is None else measure_drift(first, second, alignment, run, threads),
        notes=notes,
    )


def open_pair(a: Source, b: Source, *, canonical: bool = False) -> tuple[View, View]:
    """Both models as views. A float one is imported if the other is compiled (and it is an encoder), or if asked for.

    Raises:
        BqcError: as `diff`.
    """
    a, b = (load(STDIN) if source == STDIN or source == Path(STDIN) else source for source in (a, b))
    models = [model if isinstance(model, ir.Model) else load(model) for model in (a, b)]
    compiled = [is_compiled(model) for model in models]
    views = []
    for source, model, ready in zip((a, b), models, compiled, strict=True):
        path = None if isinstance(source, ir.Model) else Path(source)
        if ready or (compiled[0] == compiled[1] and not canonical):
            views.append(View(model, path))
            continue
        try:
            views.append(View(import_model(model)[0], path, canonical=True))
        except BqcError:
            if canonical:
                raise
            views.append(View(model if path is None else load(path), path))
    return views[0], views[1]


def _read_as_they_are(views: Sequence[View]) -> list[str]:
    """A float model that should have been imported to be compared with a compiled one, and could not be."""
    if views[0].compiled == views[1].compiled:
        return []
    plain = [view for view in views if not view.compiled and not view.canonical]
    return [
        f"{view.path or 'the float model'} is no encoder that bqc knows: compared as it is" for view in plain
    ]


def _annotate(views: Sequence[View]) -> list[str]:
    """Label raw encoders, and say so if importing would make two different graphs one."""
    raw = [view for view in views if view.encoder is None]
    for view in raw:
        view.annotate()
    one, other = (view.encoder for view in views)
    if len(raw) == 2 and one is not None and other is not None and same_structure(one, other):
        return ["in canonical form both have the same structure: compare them with --canonical"]
    return []


def _side(view: View) -> Side:
    return Side(
        path="" if view.path is None else str(view.path),
        kind="compiled" if view.compiled else "float",
        canonical=view.canonical,
        nodes=len(view.nodes),
        weight_bytes=sum(weight.stored for weight in weights_of(view)),
        file_bytes=file_bytes(view),
    )


def _weight_changes(
    views: tuple[View, View],
    gaps: Sequence[tuple[Weight, Weight, WeightGap]],
    only: tuple[Sequence[Weight], Sequence[Weight]],
) -> list[WeightChange]:
    found = [_changed(views, *gap) for gap in gaps if not gap[2].same]
    for weight in only[0]:
        label = weight.label(views[0])
        shape = list(weight.shape)
        found.append(WeightChange("removed", *label, weight.name, "", weight.words, "", shape, weight.stored))
    for weight in only[1]:
        label = weight.label(views[1])
        shape = list(weight.shape)
        found.append(
            WeightChange("added", *label, "", weight.name, "", weight.words, shape, 0, weight.stored)
        )
    return sorted(found, key=lambda change: layer_order(change.layer))


def _changed(views: tuple[View, View], one: Weight, other: Weight, gap: WeightGap) -> WeightChange:
    label = one.label(views[0])
    if label == ("", ""):
        label = other.label(views[1])
    if one.shape != other.shape:
        kind = "shape"
    elif one.format == other.format:
        kind = "changed"
    else:
        kind = "format" if gap.within_format else "requantised"
    return WeightChange(
        kind=kind,
        layer=label[0],
        role=label[1],
        a=one.name,
        b=other.name,
        format_a=one.words,
        format_b=other.words,
        shape=list(one.shape),
        bytes_a=one.stored,
        bytes_b=other.stored,
        different=gap.different,
        elements=gap.elements,
        relative=gap.relative,
        largest=gap.largest,
        index=list(gap.index),
        values=list(gap.values or ()),
        note=gap.note,
    )

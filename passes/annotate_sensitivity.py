"""Write onto each weight what it loses in the formats that a plan may choose from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from bqc.contract import Contract
from bqc.errors import BqcError
from bqc.formats import BlockShift
from bqc.ir.anatomy import LINEAR_ROLES, TABLE_ROLES, role
from bqc.passes._graph import constant, key_of
from bqc.passes._weights import check_formats, weight_inputs, weights_digest

__all__ = ["METRIC_KEY", "SENSITIVITY_KEY", "AnnotateSensitivity"]

SENSITIVITY_KEY = "bqc.sensitivity"
METRIC_KEY = "bqc.sensitivity_metric"
"""Metadata of the model: the metric that the scores are of."""


@dataclass(frozen=True)
class AnnotateSensitivity(ir.passes.InPlacePass):
    """Write the score of every weight in each format onto its node.

    Before: ``MatMul(x, W)`` labelled ``0:ffn.output``
    After:  the same node with ``bqc.sensitivity = {"BlockShift(8,64)": 3.1e-05, ...}``

    Without ``scores`` that is ``sum((W - Q(W))^2) / sum(W^2)`` (`BlockShift.weight_error`) for ``bits`` and
    ``block``: data-free, comparable between weights of different size. ``scores`` is a file that `bqc sensitivity`
    wrote, by any metric and for the formats it was asked for.

    Raises:
        BqcError: there are no such bits or block, the file cannot be read, or is of another model.
    """

    contract = Contract("exact")

    bits: tuple[int, ...] = (8, 4)
    """Of the formats to score."""
    block: int | str = 64
    """16, 32, 64, 128, 256, row or tensor."""
    scores: str = ""
    """A file of `bqc sensitivity`, instead."""

    def __post_init__(self) -> None:
        check_formats(self.bits, self.block)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = self._read(model) if self.scores else None
        count = 0
        for node, weight, axis in weight_inputs(model):
            if role(node) not in LINEAR_ROLES + TABLE_ROLES:
                continue
            scores = self._errors(weight, axis) if found is None else found[key_of(node)]
            node.metadata_props[SENSITIVITY_KEY] = json.dumps(scores)
            count += 1
        return ir.passes.PassResult(model, count > 0)

    def _errors(self, weight: ir.Value, axis: int) -> dict[str, float]:
        data = constant(weight)
        assert data is not None, "weight_inputs yields initializers"
        matrix = data.T if axis == 0 else data
        formats = [BlockShift(bits, self.block) for bits in self.bits]
        return {str(fmt): fmt.weight_error(matrix) for fmt in formats}

    def _read(self, model: ir.Model) -> dict[str, dict[str, float]]:
        # Reading scores needs no metric, and compiling needs neither.
        from bqc.sensitivity.scores import Sensitivity

        stored = Sensitivity.read(Path(self.scores))
        keys = [
            key_of(node) for node, _, _ in weight_inputs(model) if role(node) in LINEAR_ROLES + TABLE_ROLES
        ]
        found: dict[str, dict[str, float]] = {key: {} for key in keys}
        for fmt in stored.formats:
            values = stored.values("weight", fmt)
            missing = next((key for key in keys if key not in values), None)
            if missing is not None:
                raise BqcError(
                    f"{self.scores}: no score for {missing} in {fmt}: it is of another model, or of activations"
                )
            for key in keys:
                found[key][fmt] = values[key]
        known = set(keys)
        extra = next(
            (key for fmt in stored.formats for key in stored.values("weight", fmt) if key not in known), None
        )
        if extra is not None:
            raise BqcError(
                f"{self.scores}: it scores {extra}, which this model does not have: it is of another model"
            )
        # Files of earlier versions do not say what weights they are of.
        if stored.weights and stored.weights != weights_digest(model):
            raise BqcError(
                f"{self.scores}: it is of another model: the weights that it scores are not those of this one"
            )
        model.metadata_props[METRIC_KEY] = stored.metric
        return found

"""Does a compiled model still say what its original says?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from bqc.errors import BqcError
from bqc.runtime.compare import Comparison, OutputErrors
from bqc.runtime.feeds import Feeds, Inputs
from bqc.runtime.session import session
from bqc.runtime.sweep import isa_levels, isa_session, ort_level_session

if TYPE_CHECKING:
    from bqc.diff.drift import TensorDrift

__all__ = ["BOUNDS_KEY", "Bounds", "Check", "OutputErrors", "VerifyReport", "verify"]

BOUNDS_KEY = "bqc.bounds"
"""Metadata key under which a compiled file carries its scheme's bounds: the JSON of a ``Bounds``."""


@dataclass(frozen=True)
class Bounds:
    """What a comparison must reach; None asks for nothing.

    Attributes:
        cosine_min: lowest cosine of any row.
        argmax_agreement_min: fraction of rows whose largest element is the same, and of integers that are the same.
        max_abs: largest absolute error of any element.
    """

    cosine_min: float | None = None
    argmax_agreement_min: float | None = None
    max_abs: float | None = None

    @classmethod
    def stored(cls, session: onnxruntime.InferenceSession) -> Bounds:
        """The bounds in a model's metadata; empty if it has none.

        Raises:
            BqcError: they are not readable.
        """
        text = session.get_modelmeta().custom_metadata_map.get(BOUNDS_KEY, "{}")
        try:
            values = json.loads(text)
            known = {field.name: values.get(field.name) for field in fields(cls)}
            return cls(**{name: float(value) for name, value in known.items() if value is not None})
        except (ValueError, TypeError, AttributeError) as error:
            raise BqcError(f"the model's metadata {BOUNDS_KEY} is not readable: {text[:80]}") from error

    def overridden(self, by: Bounds) -> Bounds:
        """These bounds, with every field that is set in ``by`` taken from there."""
        return replace(self, **{name: value for name, value in asdict(by).items() if value is not None})

    def check(self, output: OutputErrors) -> list[Check]:
        """One check a bound that applies to the output. NaN passes none."""
        floors = (
            ("cosine", output.cosine_min, self.cosine_min, ".6f"),
            ("argmax agreement", output.argmax_agreement, self.argmax_agreement_min, ".4f"),
            ("equal", output.equal, self.argmax_agreement_min, ".4f"),
        )
        checks = [
            Check(found >= least, f"{output.name}: {what} {found:{digits}}, at least {least:g}")
            for what, found, least, digits in floors
            if found is not None and least is not None
        ]
        if self.max_abs is not None:
            ok = output.max_abs <= self.max_abs
            checks.append(
                Check(ok, f"{output.name}: max error {output.max_abs:.3g}, at most {self.max_abs:g}")
            )
        return checks


@dataclass(frozen=True)
class Check:
    """One thing that was required, in words, and whether it held."""

    ok: bool
    text: str


@dataclass(frozen=True)
class VerifyReport:
    """A comparison of two models.

    Attributes:
        compiled: the file that was judged.
        against: the original.
        inputs: what they were run on, in words.
        bounds: what was asked for.
        outputs: errors by output.
        checks: every bound on every output, and bit identity where asked for; empty if nothing was required.
        tensors: every tensor inside that both models have, worst first, where asked for.
    """

    compiled: str
    against: str
    inputs: str
    bounds: Bounds
    outputs: list[OutputErrors]
    checks: list[Check]
    tensors: list[TensorDrift] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    compiled: str | Path,
    against: str | Path,
    *,
    inputs: str | Path | None = None,
    samples: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
    bounds: Bounds | None = None,
    bits: bool = False,
    threads: int | None = None,
    all_tensors: bool = False,
    ort_levels: Sequence[str] = (),
    isa: Sequence[str] = (),
) -> VerifyReport:
    """Run two models on the same inputs and compare their outputs.

    Inputs are, in this order: the file ``inputs``; a few built-in sentences, if a tokenizer lies beside
    either model and neither ``samples`` nor ``shape`` is given; random token ids with ragged masks, padded
    right and left.

    Args:
        compiled: the model to judge.
        against: the original.
        inputs: a ``.npz`` with one array an input.
        samples: random rows in all; 32 by default.
        shape: batch and sequence length (tokens) of a random run; (8, 64) by default, less if the model has
            less.
        seed: of the random ids.
        bounds: fields that are set replace those stored in ``compiled``.
        bits: also require the same bits from ``compiled`` with and without the kernel library.
        threads: intra-operator threads.
        all_tensors: also compare every tensor inside that both models have.
        ort_levels: also require the same bits from ``compiled`` at these optimisation levels of ONNX Runtime.
        isa: also require the same bits from ``compiled`` with kernels of these instruction sets; ``all`` is
            every one that runs here.

    Raises:
        BqcError: a model cannot be run, their outputs differ in name or shape, no inputs can be made up, a level
            is unknown, or ``bits`` or ``isa`` is asked for where a kernel is missing.
    """
    sets = isa_levels(isa) if isa else []
    judged, original = session(compiled, strict=bits, threads=threads), session(against, threads=threads)
    bare = session(compiled, library=False, threads=threads) if bits else None
    asked = Bounds.stored(judged).overridden(bounds or Bounds())
    declared = {value.name: value.shape for value in original.get_outputs()}
    if declared.keys() != {value.name for value in judged.get_outputs()}:
        raise BqcError(f"{compiled} and {against} do not have the same outputs")
    source = Inputs.choose((judged, original), (compiled, against), inputs, samples, shape, seed)
    # A fixed second axis that happens to be as long as the sequence is a width, unless the sequence is fixed,
    # too.
    fixed = source.fixed_sequence
    comparisons = [Comparison(name, fixed or not _fixed_width(dims)) for name, dims in declared.items()]
    same_bits, results = True, []
    for ours, theirs, mask in source.runs:
        got, want = _run(judged, ours), _run(original, theirs)
        results.append(got)
        if bare is not None:
            again = _run(bare, ours)
            same_bits &= all(got[name].tobytes() == again[name].tobytes() for name in declared)
        for comparison in comparisons:
            first, second = got[comparison.name], want[comparison.name]
            if first.shape != second.shape:
                raise BqcError(
                    f"{comparison.name} has shape {first.shape}, the original's has {second.shape}"
                )
            comparison.add(first, second, mask)
    outputs = [comparison.result() for comparison in comparisons]
    checks = [check for output in outputs for check in asked.check(output)]
    if bits:
        checks.append(Check(same_bits, "the same bits with and without the kernel library"))
    feeds = [ours for ours, _, _ in source.runs]
    for level in ort_levels:
        made = ort_level_session(compiled, level, threads)
        checks.append(_same_bits(f"ONNX Runtime's optimisation level {level}", made, feeds, results))
    for level in sets:
        made = isa_session(compiled, level, threads)
        checks.append(_same_bits(f"{level} kernels", made, feeds, results))
    tensors = _tensors(compiled, against, inputs, samples, shape, seed, threads) if all_tensors else []
    return VerifyReport(str(compiled), str(against), source.description, asked, outputs, checks, tensors)


def _same_bits(
    what: str, running: onnxruntime.InferenceSession, feeds: Sequence[Feeds], wanted: Sequence[Feeds]
) -> Check:
    """Does another session give the very outputs of the first?"""
    worst: dict[str, float] = {}
    for given, want in zip(feeds, wanted, strict=True):
        got = _run(running, given)
        for name, array in want.items():
            if got[name].tobytes() != array.tobytes():
                gap = np.abs(got[name].astype(np.float64) - array.astype(np.float64)).max(initial=0.0)
                worst[name] = max(worst.get(name, 0.0), float(gap))
    if not worst:
        return Check(True, f"the same bits with {what}")
    return Check(
        False, f"other bits with {what}: {', '.join(f'{n} by {gap:.3g}' for n, gap in worst.items())}"
    )


def _tensors(
    compiled: str | Path,
    against: str | Path,
    inputs: str | Path | None,
    samples: int | None,
    shape: tuple[int, int] | None,
    seed: int,
    threads: int | None,
) -> list[TensorDrift]:
    from bqc.diff.alignment import align
    from bqc.diff.comparing import open_pair
    from bqc.diff.drift import measure_drift
    from bqc.diff.feeds import InputChoice

    original, judged = open_pair(against, compiled)
    choice = InputChoice(inputs, samples, shape, seed)
    found = measure_drift(original, judged, align(original, judged), choice, threads)
    return sorted(found.tensors, key=lambda tensor: -tensor.relative)


def _fixed_width(dims: list[int | str | None]) -> bool:
    return len(dims) == 2 and isinstance(dims[1], int)


def _run(running: onnxruntime.InferenceSession, feeds: Feeds) -> Feeds:
    names = [value.name for value in running.get_outputs()]
    try:
        return {name: np.asarray(value) for name, value in zip(names, running.run(names, feeds), strict=True)}
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        raise BqcError(f"ONNX Runtime cannot run the model: {error}") from error

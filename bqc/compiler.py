"""`compile`: from a float ONNX encoder to the finished artifact."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from bqc.artifact import (
    FORMAT_VERSION,
    file_sha256,
    inline_bytes,
    output_path,
    require_own_files,
    require_writable,
    write,
)
from bqc.errors import BqcError
from bqc.ir import import_model
from bqc.ir.anatomy import FloatPart, encoder
from bqc.ir.importing import ImportSummary
from bqc.ir.load import FORMAT_KEY, STDIN, load
from bqc.ops.registry import DOMAIN
from bqc.passes._unfolded import unfolded
from bqc.passes._weights import weight_uses
from bqc.passes.attach_functions import AttachFunctions
from bqc.passes.quantize_activations import require_scales
from bqc.passes.unpad import Unpad
from bqc.pipeline import Instrument, Step, run, watching
from bqc.plan import Plan, recipe_text
from bqc.schemes import scheme_with
from bqc.staging import write_text

if TYPE_CHECKING:
    from bqc.bench.break_even import BreakEven, Measuring

__all__ = ["CompileResult", "compile"]


@dataclass(frozen=True)
class CompileResult:
    """What a compilation wrote and found."""

    paths: tuple[Path, ...]
    """Files written, the model first; empty after a dry run."""
    plan: Plan
    summary: tuple[tuple[str, str], ...]
    """Rows to print: what was found, what it became, sizes."""
    steps: tuple[Step, ...]
    bytes_before: int
    bytes_after: int
    operators: dict[str, int] = field(default_factory=dict)
    """``ai.bqc`` nodes by operator."""
    float_parts: tuple[FloatPart, ...] = ()
    """What of the encoder is not recognised and stays float, or is multiplied in float, and why."""
    break_even: BreakEven | None = None
    """How fast the formats are on this machine, if that was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "paths": [str(path) for path in self.paths],
            "summary": dict(self.summary),
            "plan": {
                "scheme": self.plan.scheme,
                "weights": {k: str(v) for k, v in self.plan.weights.items()},
                "activations": {k: str(v) for k, v in self.plan.activations.items()},
                "kept": self.plan.kept,
            },
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "operators": self.operators,
            "float_parts": [asdict(part) for part in self.float_parts],
            "passes": [
                {"name": s.name, "nodes": s.nodes, "seconds": round(s.seconds, 4)} for s in self.steps
            ],
            **({} if self.break_even is None else {"break_even": self.break_even.to_dict()}),
        }


def compile(
    model: str | Path | ir.Model,
    scheme: str = "bbct",
    output: str | Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    instruments: Sequence[Instrument] = (),
    **more: Any,
) -> CompileResult:
    """Compile a float encoder.

    Args:
        model: a float ``.onnx`` or ``.onnxtxt`` file, or a model in memory or on standard input, ``-`` (then
            ``output`` is needed).
        scheme: name of the scheme.
        output: a ``.onnx`` file or a folder; beside the input as ``NAME.bqc.onnx`` if not given.
        options: the scheme's options (weight_bits, block, include, ...), and ``recipe`` (a path or a `Plan`),
            ``save_recipe`` (a path), ``side_files_from`` (a folder whose tokenizer and config go beside the output),
            ``side_files`` (name -> content of those that are not the folder's), ``dry_run``, ``single_file``,
            ``explain``, ``require_full``, ``unpad`` (layers run on the tokens of a batch without its padding),
            ``measure`` (batches x tokens, as in ``[(1, 16), (8, 128)]``, at which formats are timed against dense 8
            bits), ``threads`` (of that; 1 if not given), ``keep_dense`` (linears that are slower at each of them go
            back to 8 bits); also as keywords.
        progress: called with (steps done, steps in all).
        instruments: are told of every pass, those of import included (`bqc.pipeline`).

    Raises BqcError if the model cannot be read, holds no encoder or is already compiled, or an option is
    wrong; no file is written then.
    """
    started = time.perf_counter()
    known = {**(options or {}), **more}
    recipe = known.pop("recipe", None)
    save_recipe = known.pop("save_recipe", None)
    dry_run = bool(known.pop("dry_run", False))
    single_file = bool(known.pop("single_file", False))
    explain = bool(known.pop("explain", False))
    require_full = bool(known.pop("require_full", False))
    unpad = bool(known.pop("unpad", False))
    side_files_from, side_files = known.pop("side_files_from", None), known.pop("side_files", None)
    shapes, threads = _shapes(known.pop("measure", ())), _threads(known.pop("threads", None))
    keep_dense = bool(known.pop("keep_dense", False))
    if (keep_dense or threads is not None) and not shapes:
        raise BqcError("keep_dense and threads go with measure, which says at what batches x tokens")
    known.pop("seed", None)
    text, where = _recipe(recipe, known)
    if text is not None:
        scheme = Plan.from_yaml(text, where).scheme or scheme
    chosen = scheme_with(scheme, known)
    source = None if isinstance(model, ir.Model) or str(model) == STDIN else _named(model)
    if source is None and output is None and not dry_run:
        raise BqcError(
            "a model in memory or on standard input needs an output; give -o FILE (output= in Python)"
        )
    path, with_side_files = output_path(source or Path("model.onnx"), None if output is None else str(output))

    notes = [("note", chosen.note)] if not isinstance(recipe, Plan) and hasattr(chosen, "note") else []
    planning = chosen.plan(text, where)
    lowering = [] if dry_run and not shapes else chosen.lower()
    if unpad and lowering:
        ready = next((i for i, one in enumerate(lowering) if isinstance(one, AttachFunctions)), len(lowering))
        lowering.insert(ready, Unpad())
    total = 2 + len(planning) + len(lowering)
    if progress is not None:
        progress(0, total)
    measuring = _measuring(shapes, threads or 1, keep_dense) if shapes else None
    read = model if isinstance(model, ir.Model) else load(model)
    require_own_files(path, source, read)
    if not dry_run:
        require_writable(path)
    stored = None if source is None else _stored(read, source)
    with watching(instruments):
        loaded, found = _import(read, explain, known=read is model)
        parts = found.encoder.float_parts
        before = inline_bytes(loaded)
        if measuring is not None:
            measuring.imported(loaded)
        steps = run(loaded, planning, progress, 1, total)
        if lowering:
            # Said at once: quantising the weights of a large model takes its time.
            require_scales(Plan.of(loaded))
        if measuring is not None:
            measuring.planned(loaded)
        budget = _budget(chosen, loaded)
        steps += run(loaded, lowering, progress, 1 + len(planning), total)
        if measuring is not None and (revised := measuring.lowered(loaded, progress)) is not None:
            loaded = revised
            budget = _budget(chosen, loaded)
            steps += run(loaded, lowering, progress, 1 + len(planning), total)
        plan = Plan.of(loaded)
    if save_recipe is not None:
        _write_text(Path(save_recipe), plan.to_yaml())
    saved = [] if save_recipe is None else [("recipe", str(save_recipe))]
    speeds = None if measuring is None else measuring.found
    left = unfolded(loaded)
    if dry_run:
        wrote = "nothing: dry run" if save_recipe is None else "no model: dry run"
        rows = (*_rows(found, plan), *budget, *_in_float(left), *notes, *saved, ("wrote", wrote))
        return CompileResult(
            (), plan, rows, tuple(steps), before, 0, float_parts=(*parts, *left), break_even=speeds
        )
    if require_full:
        _require_full(left, found, plan)
    operators = _operators(loaded)
    _stamp(loaded, scheme, chosen, plan, source, from_recipe=text is not None)
    paths = write(
        loaded,
        path,
        single_file=single_file,
        side_files_from=source.parent if source is not None and with_side_files else side_files_from,
        side_files=side_files,
    )
    after = sum(p.stat().st_size for p in paths if p.name.startswith(path.name))
    if progress is not None:
        progress(total, total)
    rows = (
        *_rows(found, plan),
        *budget,
        *_in_float(left),
        *notes,
        *([("near miss", str(miss)) for miss in found.misses] if explain else []),
        ("operators", ", ".join(f"{count} {name}" for name, count in operators.items())),
        *saved,
        ("size", _size(before, after, stored)),
        ("time", f"{time.perf_counter() - started:.1f} s"),
    )
    return CompileResult(
        tuple(paths), plan, rows, tuple(steps), before, after, operators, (*parts, *left), speeds
    )


def _named(model: str | Path) -> Path:
    path = Path(model)
    if not path.name:
        raise BqcError(f"{path}: is a directory; give the .onnx file in it")
    return path


def _shapes(measure: Any) -> list[tuple[int, int]]:
    """Batches x tokens, as they are written in Python."""
    message = f"measure is {measure!r}; it is a list of batches x tokens, like [(1, 16), (8, 128)]"
    if isinstance(measure, str) or not isinstance(measure, Iterable):
        raise BqcError(message)
    shapes = []
    for shape in measure:
        if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) != 2:
            raise BqcError(message)
        if not all(_is_count(n) for n in shape):
            raise BqcError(f"{message}, all of them 1 or more")
        shapes.append((int(shape[0]), int(shape[1])))
    return shapes


def _threads(threads: Any) -> int | None:
    if threads is None:
        return None
    if not _is_count(threads):
        raise BqcError(f"threads is {threads!r}; it is a number, 1 or more")
    return int(threads)


def _is_count(number: Any) -> bool:
    return isinstance(number, Integral) and int(number) >= 1


def _measuring(shapes: Sequence[tuple[int, int]], threads: int, keep_dense: bool) -> Measuring:
    # ONNX Runtime takes its time to load, and compiling alone needs none.
    from bqc.bench.break_even import Measuring

    return Measuring(shapes, threads, keep_dense)


def _stored(model: ir.Model, source: Path) -> int:
    """Bytes of a model's file and of the data files it names."""
    tensors = [v.const_value for v in model.graph.initializers.values()]
    data = {source.parent / t.location for t in tensors if isinstance(t, ir.ExternalTensor)}
    return source.stat().st_size + sum(path.stat().st_size for path in data)


def _size(before: int, after: int, stored: int | None) -> str:
    """The file against the weights as import sees them, in float32, and against the input's files."""
    text = f"{after / 2**20:.2f} MiB; weights in float32 {before / 2**20:.2f} MiB ({before / after:.2f}x)"
    if stored is None:
        return text
    why = "too much of it stayed float" if stored > 0.75 * before else "that has fewer bits a weight"
    larger = f"; LARGER than the input: {why}" if after > stored else ""
    return f"{text}; input file {stored / 2**20:.2f} MiB ({stored / after:.2f}x){larger}"


def _import(model: ir.Model, explain: bool, *, known: bool) -> tuple[ir.Model, Any]:
    from bqc.ir.explain import Explanation

    if known and any(not weight.is_initializer() for _, weight, _ in weight_uses(model)):
        # It was imported before, and its weights split since; to import it again would add them up.
        size = len(model.graph)
        return model, ImportSummary(encoder(model), (), model.graph.opset_imports.get("", 0), size, size, 0.0)
    explanation = Explanation() if explain else None
    try:
        return import_model(model, explain=explanation)
    except BqcError as error:
        if explanation is None:
            raise
        misses = "; ".join(map(str, explanation.misses)) or "no rule came near enough to record a miss"
        raise BqcError(f"{error}. Misses: {misses}") from None


def _recipe(recipe: str | Path | Plan | None, options: dict[str, Any]) -> tuple[str | None, str]:
    """A recipe as it was written, and what messages call it."""
    if recipe is None:
        return None, ""
    if options:
        raise BqcError(f"a recipe is a whole plan: leave out {', '.join(sorted(options))} or the recipe")
    return (
        (recipe.to_yaml(), "recipe") if isinstance(recipe, Plan) else (recipe_text(Path(recipe)), str(recipe))
    )


def _operators(model: ir.Model) -> dict[str, int]:
    return dict(sorted(Counter(n.op_type for n in model.graph if n.domain == DOMAIN).items()))


def _in_float(parts: Iterable[FloatPart]) -> list[tuple[str, str]]:
    """Products that still run in float, one row a reason."""
    groups: dict[str, list[str]] = {}
    for part in parts:
        groups.setdefault(part.reason, []).append(part.part)
    rows = []
    for reason, keys in groups.items():
        shown = ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
        rows.append(("float", f"{shown}: {reason}"))
    return rows


def _require_full(products: Iterable[FloatPart], found: Any, plan: Plan) -> None:
    """Whatever stays float is an error."""
    left = [str(part) for part in found.encoder.float_parts]
    left += [f"{key} ({why})" for key, why in plan.kept.items() if why.startswith("float")]
    left += [text for _, text in _in_float(products)]
    left += [str(miss) for miss in found.misses]
    if left:
        shown = "; ".join(left[:4]) + (f"; and {len(left) - 4} more" if len(left) > 4 else "")
        raise BqcError(f"not all of the model is compiled, as --require-full asks: {shown}")


def _stamp(
    model: ir.Model, scheme: str, options: Any, plan: Plan, source: Path | None, *, from_recipe: bool
) -> None:
    try:
        own = version("bqc")
    except PackageNotFoundError:
        own = "unknown"
    model.producer_name, model.producer_version = "bqc", own
    model.ir_version = min(model.ir_version, 10)
    model.metadata_props.update(
        {
            FORMAT_KEY: FORMAT_VERSION,
            "bqc.scheme": scheme,
            # A recipe is a whole plan: the options that it was first made from are not known.
            "bqc.options": json.dumps(
                "recipe" if from_recipe else {f.name: getattr(options, f.name) for f in fields(options)}
            ),
            "bqc.bounds": json.dumps(options.bounds(plan)),
            "bqc.versions": json.dumps({"bqc": own, "onnx": onnx.__version__, "onnx_ir": ir.__version__}),
        }
    )
    if source is not None:
        model.metadata_props["bqc.input_sha256"] = file_sha256(source)
        model.metadata_props["bqc.input_name"] = source.name


def _rows(found: Any, plan: Plan) -> tuple[tuple[str, str], ...]:
    weights = Counter(str(fmt) for fmt in plan.weights.values())
    rows = [
        ("found", str(found)),
        ("weights", ", ".join(f"{count} in {fmt}" for fmt, count in weights.items()) or "all float"),
        ("points", f"{len(plan.activations)} quantised activations"),
    ]
    rows += _kept(plan)
    rows += _unrecognised(found.encoder.float_parts)
    rows += [("note", text) for text in found.notes]
    return tuple(rows)


def _budget(scheme: Any, planned: ir.Model) -> list[tuple[str, str]]:
    """How a planned float model's formats use the scheme's budget, if it has one."""
    spent = scheme.spent(planned) if hasattr(scheme, "spent") else None
    return [] if spent is None else [("budget", str(spent))]


def _unrecognised(parts: Iterable[FloatPart]) -> list[tuple[str, str]]:
    """What is not recognised, one row a reason: every layer may have the same."""
    groups: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        layer, _, what = part.part.partition(":")
        groups.setdefault((what, part.reason), []).append(layer)
    return [
        ("float", f"{', '.join(f'{layer}:{what}' for layer in layers)} ({reason})")
        for (what, reason), layers in groups.items()
    ]


def _kept(plan: Plan) -> list[tuple[str, str]]:
    """What stays float or at more bits, one row a kind of reason: there may be a reason for every weight."""
    groups: dict[str, list[str]] = {}
    for key, why in plan.kept.items():
        groups.setdefault(why.partition(":")[0], []).append(f"{key} ({why.partition(': ')[2]})")
    total = len(plan.weights) + sum(1 for why in plan.kept.values() if why.startswith("float"))
    return [
        (
            "kept",
            f"{len(keys)} of {total} weights {kind}: {'; '.join(keys[:4])}{'; ...' if len(keys) > 4 else ''}",
        )
        for kind, keys in groups.items()
    ]


def _write_text(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise BqcError(f"{path}: cannot write the recipe: {error.strerror}") from None
